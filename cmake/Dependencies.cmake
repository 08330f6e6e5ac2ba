# Libraries from Debian (docs/dependencies.md says which and why), always their static form, so that the program can be
# carried anywhere.
find_package(Threads REQUIRED)

function(viaduct_static_library NAME FILE HEADER)
  find_library(${NAME}_ARCHIVE NAMES lib${FILE}.a REQUIRED)
  find_path(${NAME}_INCLUDE NAMES ${HEADER} REQUIRED)
  add_library(${NAME} STATIC IMPORTED GLOBAL)
  set_target_properties(${NAME} PROPERTIES IMPORTED_LOCATION ${${NAME}_ARCHIVE}
                        INTERFACE_INCLUDE_DIRECTORIES ${${NAME}_INCLUDE})
endfunction()

viaduct_static_library(deflate deflate libdeflate.h)
viaduct_static_library(zlib z zlib.h)
viaduct_static_library(xxhash-static xxhash xxhash.h)

find_package(fmt REQUIRED)
add_library(fmt-static STATIC ${CMAKE_CURRENT_LIST_DIR}/fmt.cpp)
target_include_directories(fmt-static SYSTEM PUBLIC $<TARGET_PROPERTY:fmt::fmt-header-only,INTERFACE_INCLUDE_DIRECTORIES>)

# viaduct_uses_rapidjson(SOURCE...): RapidJSON's empty stack adds to a null pointer, which the undefined-behaviour
# sanitizer reports; what is done with the result is still watched by the address sanitizer.
function(viaduct_uses_rapidjson)
  if(VIADUCT_SANITIZE MATCHES undefined)
    set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "-fno-sanitize=pointer-overflow")
  endif()
endfunction()
