# Libraries from Debian (docs/dependencies.md says which and why), always their static form, so that the program can be
# carried anywhere.
find_package(Threads REQUIRED)

include(${CMAKE_CURRENT_LIST_DIR}/StaticLibrary.cmake)

viaduct_static_library(viaduct::deflate deflate libdeflate.h)
viaduct_static_library(viaduct::zlib z zlib.h)
viaduct_static_library(viaduct::xxhash-static xxhash xxhash.h)

find_package(fmt REQUIRED)
add_library(fmt-static STATIC ${CMAKE_CURRENT_LIST_DIR}/fmt.cpp)
target_include_directories(fmt-static SYSTEM PUBLIC
                           $<BUILD_INTERFACE:$<TARGET_PROPERTY:fmt::fmt-header-only,INTERFACE_INCLUDE_DIRECTORIES>>)
set_target_properties(fmt-static PROPERTIES OUTPUT_NAME viaduct_fmt)

# viaduct_uses_rapidjson(SOURCE...): RapidJSON's empty stack adds to a null pointer, which the undefined-behaviour
# sanitizer reports; what is done with the result is still watched by the address sanitizer.
function(viaduct_uses_rapidjson)
  if(VIADUCT_SANITIZE MATCHES undefined)
    set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "-fno-sanitize=pointer-overflow")
  endif()
endfunction()
