# Answers of OpenAI-compatible servers.
joust_fuzzer(endpoint SOURCES endpoint_fuzz.c DEPS joust_worker joust_proto joust_base)
