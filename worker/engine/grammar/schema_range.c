/* Whole numbers from one to another as a grammar, digit by digit. */
#include <stdio.h>
#include <string.h>

#include "schema_internal.h"

#define MAX_DIGITS 16

/* low .. high, both of n digits. */
static void add_digits(joust_buf *to, const char *low, const char *high, int n)
{
    static const char zeros[] = "0000000000000000", nines[] = "9999999999999999";
    const bool from_zeros = strncmp(low + 1, zeros, (size_t)n - 1) == 0,
               to_nines = strncmp(high + 1, nines, (size_t)n - 1) == 0;
    if (low[0] == high[0] && n > 1) {
        joust_buf_format(to, "\"%c\" ( ", low[0]);
        add_digits(to, low + 1, high + 1, n - 1);
        joust_buf_text(to, " )");
        return;
    }
    const char first = (char)(low[0] + !from_zeros), last = (char)(high[0] - !to_nines);
    bool begun = false;
    if (!from_zeros) {
        joust_buf_format(to, "\"%c\" ( ", low[0]);
        add_digits(to, low + 1, nines, n - 1);
        joust_buf_text(to, " )");
        begun = true;
    }
    if (first <= last) {
        joust_buf_format(to, "%s[%c-%c]", begun ? " | " : "", first, last);
        if (n > 1)
            joust_buf_format(to, " [0-9]{%d}", n - 1);
        begun = true;
    }
    if (!to_nines) {
        joust_buf_format(to, "%s\"%c\" ( ", begun ? " | " : "", high[0]);
        add_digits(to, zeros, high + 1, n - 1);
        joust_buf_text(to, " )");
    }
}

/* low .. high, 0 <= low <= high: of each length. */
static void add_positive(joust_buf *to, int64_t low, int64_t high)
{
    char from[24], last[24], least[24] = "1000000000000000", most[24] = "9999999999999999";
    snprintf(from, sizeof(from), "%lld", (long long)low);
    snprintf(last, sizeof(last), "%lld", (long long)high);
    const int n_from = (int)strlen(from), n_last = (int)strlen(last);
    for (int n = n_from; n <= n_last && n <= MAX_DIGITS; n++) {
        joust_buf_text(to, n > n_from ? " | " : "");
        add_digits(to, n == n_from ? from : least, n == n_last ? last : most, n);
    }
}

void joust_schema_range(int64_t low, int64_t high, joust_buf *to)
{
    if (low < 0) {
        joust_buf_text(to, "\"-\" ( ");
        add_positive(to, high < 0 ? -high : 1, -low);
        joust_buf_text(to, high < 0 ? " )" : " ) | ");
    }
    if (high >= 0)
        add_positive(to, low < 0 ? 0 : low, high);
}
