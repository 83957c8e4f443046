# Decoders of the engine's files: chat templates, tokenizer.json, safetensors headers, config.json, supervised rows, llama2.c's tokenizer; patterns of masks.
foreach(name chat tokenizer safetensors config rows llama2c mask)
  joust_fuzzer(${name} SOURCES ${name}_fuzz.c DEPS joust_engine joust_proto joust_base)
endforeach()
