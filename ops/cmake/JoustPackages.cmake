# The distribution's libraries that Joust stands on. Each becomes an imported target PKG::<name>.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)

# joust_package(NAME pkg-config-module): creates PKG::NAME.
function(joust_package name module)
  pkg_check_modules(${name} REQUIRED IMPORTED_TARGET GLOBAL ${module})
  add_library(PKG::${name} ALIAS PkgConfig::${name})
endfunction()

joust_package(zmq libzmq)
joust_package(protobufc libprotobuf-c)
joust_package(yaml yaml-0.1)
joust_package(jansson jansson)
joust_package(curl libcurl)
joust_package(sodium libsodium)
joust_package(xxhash libxxhash)
joust_package(pcre2 libpcre2-8)
joust_package(utf8proc libutf8proc)

find_library(JOUST_ROCKSDB rocksdb REQUIRED)
add_library(joust_rocksdb_import INTERFACE)
target_link_libraries(joust_rocksdb_import INTERFACE ${JOUST_ROCKSDB})
add_library(PKG::rocksdb ALIAS joust_rocksdb_import)

find_program(JOUST_PROTOC_C protoc-c REQUIRED)

# cmocka's pkg-config file is enough on every distribution we build on.
if(BUILD_TESTING OR NOT DEFINED BUILD_TESTING)
  joust_package(cmocka cmocka)
  joust_package(microhttpd libmicrohttpd)
endif()
