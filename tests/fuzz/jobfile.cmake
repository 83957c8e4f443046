joust_fuzzer(jobfile SOURCES jobfile_fuzz.c DEPS joust_ops joust_proto joust_base)
