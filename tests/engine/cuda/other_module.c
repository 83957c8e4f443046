/* A shared object that has nothing to do with Joust. */
int joust_other_module(void);

int joust_other_module(void)
{
    return 1;
}
