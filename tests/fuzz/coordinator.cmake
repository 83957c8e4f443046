# What the coordinator reads: lines of prompt files, and its own snapshots and events.
joust_fuzzer(prompt SOURCES prompt_fuzz.c DEPS joust_coordinator joust_proto joust_base)
set(core_deps joust_core joust_storage joust_proto joust_base)
joust_fuzzer(core SOURCES core_fuzz.c DEPS ${core_deps})

# fuzz_core_seeds DIR   writes the seeds of the corpus of core
add_executable(fuzz_core_seeds core_seeds.c)
target_include_directories(fuzz_core_seeds PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/tests)
target_link_libraries(fuzz_core_seeds PRIVATE joust_warnings ${core_deps} Threads::Threads)
