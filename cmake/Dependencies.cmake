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

# fmt: Debian's static archive when there, else the headers alone.
find_package(fmt REQUIRED)
find_library(FMT_ARCHIVE NAMES libfmt.a)
if(FMT_ARCHIVE)
  add_library(fmt-static STATIC IMPORTED GLOBAL)
  set_target_properties(fmt-static PROPERTIES IMPORTED_LOCATION ${FMT_ARCHIVE})
else()
  add_library(fmt-static ALIAS fmt::fmt-header-only)
endif()

# viaduct_uses_rapidjson(SOURCE...): RapidJSON's empty stack adds to a null pointer, which the undefined-behaviour
# sanitizer reports; what is done with the result is still watched by the address sanitizer.
function(viaduct_uses_rapidjson)
  if(VIADUCT_SANITIZE MATCHES undefined)
    set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "-fno-sanitize=pointer-overflow")
  endif()
endfunction()
