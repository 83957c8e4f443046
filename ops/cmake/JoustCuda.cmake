# joust_cuda_plugin(FOLDER SOURCES ... CUDA file.cu): the module joust-cuda.so beside the program, where nvcc is present. It
# carries what it needs of joust_base and CUDA's run-time library, exports one symbol, and needs the driver only when used.
function(joust_cuda_plugin)
  cmake_parse_arguments(ARG "" "FOLDER;CUDA" "SOURCES" ${ARGN})
  if(JOUST_CUDA STREQUAL "OFF" OR (JOUST_CUDA STREQUAL "AUTO" AND (JOUST_SANITIZE OR JOUST_FUZZ OR JOUST_COVERAGE)))
    return()
  endif()
  find_program(JOUST_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
  if(NOT JOUST_NVCC)
    if(JOUST_CUDA STREQUAL "AUTO")
      message(STATUS "CUDA plugin: left out, there is no nvcc")
      return()
    endif()
    message(FATAL_ERROR "JOUST_CUDA is ON and there is no nvcc: install the CUDA toolkit (12 or newer), or set CUDA_HOME")
  endif()
  get_filename_component(bin ${JOUST_NVCC} REALPATH)
  get_filename_component(bin ${bin} DIRECTORY)
  find_library(JOUST_CUDART cudart_static HINTS ${bin}/../lib64 ${bin}/../targets/x86_64-linux/lib
               ${bin}/../targets/sbsa-linux/lib REQUIRED)
  set(targets)
  foreach(target ${JOUST_CUDA_TARGETS})
    list(APPEND targets -gencode arch=compute_${target},code=sm_${target})
    set(last ${target})
  endforeach()
  list(APPEND targets -gencode arch=compute_${last},code=compute_${last})
  set(strict)
  if(JOUST_WERROR)
    set(strict --Werror all-warnings)
  endif()
  set(from ${CMAKE_SOURCE_DIR}/${ARG_FOLDER}/${ARG_CUDA})
  set(object ${CMAKE_CURRENT_BINARY_DIR}/${ARG_CUDA}.o)
  file(GLOB headers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${ARG_FOLDER}/*.h ${CMAKE_SOURCE_DIR}/worker/engine/device.h
       ${CMAKE_SOURCE_DIR}/worker/engine/engine.h ${CMAKE_SOURCE_DIR}/worker/engine/model.h)
  # -fmad=false: a fused multiply-add stands where fmaf stands, as on the CPU.
  add_custom_command(OUTPUT ${object} DEPENDS ${from} ${headers} COMMENT "Building CUDA object ${ARG_CUDA}"
    COMMAND ${JOUST_NVCC} -std=c++17 -O3 -fmad=false -prec-div=true -prec-sqrt=true -ftz=false ${strict}
            -Xcompiler -Wall,-Wextra,-fPIC,-fvisibility=hidden,-fno-threadsafe-statics,-fno-exceptions ${targets}
            -I${CMAKE_SOURCE_DIR}/${ARG_FOLDER} -I${CMAKE_SOURCE_DIR} -c ${from} -o ${object} VERBATIM)
  add_library(joust-cuda MODULE ${ARG_SOURCES} ${object})
  set_target_properties(joust-cuda PROPERTIES PREFIX "" C_VISIBILITY_PRESET hidden LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
  target_include_directories(joust-cuda PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_options(joust-cuda PRIVATE -Wl,--exclude-libs,ALL -Wl,--no-undefined)
  target_link_libraries(joust-cuda PRIVATE joust_warnings joust_base ${JOUST_CUDART} m rt ${CMAKE_DL_LIBS} Threads::Threads)
endfunction()
