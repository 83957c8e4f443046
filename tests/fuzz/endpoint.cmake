# Answers of OpenAI-compatible servers, and lines of trainers.
joust_fuzzer(endpoint SOURCES endpoint_fuzz.c DEPS joust_worker joust_endpoint joust_engine joust_proto joust_base)
