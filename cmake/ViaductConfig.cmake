# find_package(Viaduct): viaduct::bridge (conversion), viaduct::adapters, viaduct::hub, and the layers below them.
# The system's static libdeflate, zlib and xxHash, and fmt's headers, must be there: Debian's libdeflate-dev, zlib1g-dev,
# libxxhash-dev, libfmt-dev.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
find_dependency(fmt)
include(${CMAKE_CURRENT_LIST_DIR}/StaticLibrary.cmake)
if(NOT TARGET viaduct::deflate)
  viaduct_static_library(viaduct::deflate deflate libdeflate.h)
  viaduct_static_library(viaduct::zlib z zlib.h)
  viaduct_static_library(viaduct::xxhash-static xxhash xxhash.h)
endif()
include(${CMAKE_CURRENT_LIST_DIR}/Viaduct.cmake)
