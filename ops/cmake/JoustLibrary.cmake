# joust_library(NAME FOLDER folder [ROOMS x ...] SOURCES a.c ... [DEPS joust_x ...] [PACKAGES zmq ...])
#
# Makes the static library joust_NAME of the folder and its subfolders ROOMS. Its only PUBLIC include path is a folder of
# symlinks, build/views/NAME/<folder>/, that holds its public headers (*_internal.h left out), and its DEPS
# are linked PRIVATE: so `#include "storage/store.h"` compiles only in a target that names
# joust_storage itself. A skipped layer or an internal header doesn't compile.
function(joust_library name)
  cmake_parse_arguments(ARG "" "FOLDER" "ROOMS;SOURCES;DEPS;PACKAGES" ${ARGN})
  set(view ${CMAKE_BINARY_DIR}/views/${name})
  set(inside ${CMAKE_BINARY_DIR}/views/${name}.internal) # the library's own sources alone
  file(REMOVE_RECURSE ${view} ${inside})
  set(folders ${ARG_FOLDER})
  foreach(room ${ARG_ROOMS})
    list(APPEND folders ${ARG_FOLDER}/${room})
  endforeach()
  foreach(folder ${folders})
    file(MAKE_DIRECTORY ${view}/${folder} ${inside}/${folder})
    file(GLOB headers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.h)
    foreach(header ${headers})
      get_filename_component(file ${header} NAME)
      if(file MATCHES "_internal\\.h$")
        file(CREATE_LINK ${header} ${inside}/${folder}/${file} SYMBOLIC)
      else()
        file(CREATE_LINK ${header} ${view}/${folder}/${file} SYMBOLIC)
      endif()
    endforeach()
  endforeach()
  add_library(joust_${name} STATIC ${ARG_SOURCES})
  target_include_directories(joust_${name} PUBLIC ${view} PRIVATE ${inside})
  list(TRANSFORM ARG_PACKAGES PREPEND PKG::)
  target_link_libraries(joust_${name} PRIVATE joust_warnings ${ARG_DEPS} ${ARG_PACKAGES}
                        Threads::Threads)
endfunction()

# joust_test(NAME SOURCES ... DEPS joust_x ... [PACKAGES ...] [LABELS ...] [TIMEOUT s])
# One cmocka program under ctest. FOLDER/internal headers are reachable in tests: a test may look inside.
function(joust_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;PACKAGES;LABELS;ARGS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  list(TRANSFORM ARG_PACKAGES PREPEND PKG::)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/tests)
  target_link_libraries(${name} PRIVATE joust_warnings ${ARG_DEPS} ${ARG_PACKAGES} PKG::cmocka
                        Threads::Threads)
  target_compile_definitions(${name} PRIVATE
    JOUST_SOURCE_DIR="${CMAKE_SOURCE_DIR}" JOUST_BINARY_DIR="${CMAKE_BINARY_DIR}")
  add_test(NAME ${name} COMMAND ${name} ${ARG_ARGS})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  math(EXPR ARG_TIMEOUT "${ARG_TIMEOUT} * ${JOUST_TEST_PATIENCE}")
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()
