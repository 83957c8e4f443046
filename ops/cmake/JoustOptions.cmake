# Build options and the one place where compiler flags are set.
set(JOUST_SANITIZE "" CACHE STRING "Sanitizers, as for -fsanitize= (address,undefined or thread)")
option(JOUST_FUZZ "Build the libFuzzer programs (clang only)" OFF)
option(JOUST_WERROR "Warnings are errors; on in CI, off where compilers that we don't know build Joust" OFF)
option(JOUST_COVERAGE "Instrument for coverage" OFF)
set(JOUST_CUDA AUTO CACHE STRING "Build the CUDA plugin: AUTO (where nvcc is), ON (nvcc must be there) or OFF")
set(JOUST_CUDA_TARGETS "80;90" CACHE STRING "GPUs that the plugin has machine code for; newer ones take the last one's PTX")

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
# assert() stays on in every build: a broken invariant must never become a wrong record.
string(REPLACE "-DNDEBUG" "" CMAKE_C_FLAGS_RELEASE "${CMAKE_C_FLAGS_RELEASE}")
string(REPLACE "-DNDEBUG" "" CMAKE_C_FLAGS_RELWITHDEBINFO "${CMAKE_C_FLAGS_RELWITHDEBINFO}")

add_library(joust_warnings INTERFACE)
target_compile_options(joust_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
  $<$<BOOL:${JOUST_WERROR}>:-Werror>
  # Numbers are ours to the last bit: the compiler may not fuse or reorder floating point.
  -ffp-contract=off -fno-fast-math -fno-math-errno)
target_compile_definitions(joust_warnings INTERFACE _POSIX_C_SOURCE=200809L _DEFAULT_SOURCE)

# What a test's time limit, given for a release on a quiet machine, is multiplied by.
set(JOUST_TEST_PATIENCE 1)
if(JOUST_SANITIZE)
  set(JOUST_TEST_PATIENCE 10)
  add_compile_options(-fsanitize=${JOUST_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${JOUST_SANITIZE})
endif()
if(JOUST_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(JOUST_COVERAGE)
  add_compile_options(--coverage)
  add_link_options(--coverage)
endif()
