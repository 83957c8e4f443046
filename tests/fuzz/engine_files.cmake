# Decoders of the engine's files: chat templates, tokenizer.json, safetensors headers, config.json, supervised rows, llama2.c's tokenizer; masks' patterns, grammars and schemas.
foreach(name chat tokenizer safetensors config rows llama2c mask grammar)
  joust_fuzzer(${name} SOURCES ${name}_fuzz.c DEPS joust_engine joust_proto joust_base)
endforeach()
