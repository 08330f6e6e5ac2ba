# libtorch as it lies in PyPI's torch wheel (tools/setup train), and the precompiled header of everything that uses it.
# Torch's own CMake package is not used: it wants a CUDA toolkit at configure time.
set(VIADUCT_TORCH "" CACHE PATH "site-packages folder that holds torch/ and nvidia/ (empty: that of .venv/train)")
if(NOT VIADUCT_TORCH)
  file(GLOB found ${PROJECT_SOURCE_DIR}/.venv/train/lib/python3*/site-packages)
  list(LENGTH found count)
  if(NOT count EQUAL 1)
    message(FATAL_ERROR "no torch in .venv/train: run tools/setup train, or configure with -DVIADUCT_TRAIN=OFF")
  endif()
  set(VIADUCT_TORCH ${found})
endif()
if(NOT EXISTS ${VIADUCT_TORCH}/torch/lib/libtorch_cpu.so)
  message(FATAL_ERROR "${VIADUCT_TORCH} has no torch/lib/libtorch_cpu.so: VIADUCT_TORCH must name the folder that holds torch/")
endif()

find_path(VIADUCT_GLOO_INCLUDE gloo/config.h REQUIRED)

add_library(viaduct_torch INTERFACE)
target_include_directories(viaduct_torch SYSTEM INTERFACE
  ${VIADUCT_TORCH}/torch/include ${VIADUCT_TORCH}/torch/include/torch/csrc/api/include ${VIADUCT_GLOO_INCLUDE})
target_compile_definitions(viaduct_torch INTERFACE USE_C10D_GLOO)
target_link_directories(viaduct_torch INTERFACE ${VIADUCT_TORCH}/torch/lib)
# --no-as-needed: kernels register themselves when their library is loaded, nothing refers to it.
set(torch_libraries torch_cpu c10)
if(EXISTS ${VIADUCT_TORCH}/torch/lib/libtorch_cuda.so)
  set(VIADUCT_TORCH_CUDA ON)
  list(PREPEND torch_libraries torch torch_cuda)
  list(APPEND torch_libraries c10_cuda)
  target_include_directories(viaduct_torch SYSTEM INTERFACE
    ${VIADUCT_TORCH}/nvidia/cu13/include ${VIADUCT_TORCH}/nvidia/nccl/include)
  target_compile_definitions(viaduct_torch INTERFACE USE_C10D_NCCL)
else()
  set(VIADUCT_TORCH_CUDA OFF)
endif()
# libtorch.so exports parts of std::filesystem that call what it does not have: the C++ library's own come first.
list(PREPEND torch_libraries stdc++)
list(TRANSFORM torch_libraries PREPEND "-l")
add_library(viaduct_torch_fmt STATIC ${CMAKE_CURRENT_LIST_DIR}/torch_fmt.cpp)
target_include_directories(viaduct_torch_fmt SYSTEM PRIVATE ${VIADUCT_TORCH}/torch/include)
target_link_libraries(viaduct_torch INTERFACE viaduct_torch_fmt
  "-Wl,--push-state,--no-as-needed" ${torch_libraries} "-Wl,--pop-state" Threads::Threads)
target_link_options(viaduct_torch INTERFACE "-Wl,-rpath,${VIADUCT_TORCH}/torch/lib"
                    "-Wl,--allow-shlib-undefined")

# One precompiled header for all: libtorch's headers cost 17 s a file without it.
file(WRITE ${PROJECT_BINARY_DIR}/generated/torch_pch.cpp "")
add_library(viaduct_torch_pch OBJECT ${PROJECT_BINARY_DIR}/generated/torch_pch.cpp)
target_link_libraries(viaduct_torch_pch PRIVATE viaduct_torch viaduct_options)
target_precompile_headers(viaduct_torch_pch PRIVATE
  <ATen/ATen.h> <torch/csrc/autograd/custom_function.h> <torch/nn/module.h> <fmt/format.h>
  <map> <memory> <optional> <span> <string> <vector>)

# ccache takes this in place of the precompiled file, which differs from build to build (CCACHE_PCH_EXTSUM in tools/build).
file(GLOB torch_version ${VIADUCT_TORCH}/torch-*.dist-info)
get_target_property(torch_headers viaduct_torch_pch PRECOMPILE_HEADERS)
string(SHA256 torch_headers "${torch_headers} ${CMAKE_CXX_COMPILER_VERSION} ${CMAKE_BUILD_TYPE} ${VIADUCT_SANITIZE}")
get_filename_component(torch_version ${torch_version} NAME)
file(WRITE ${PROJECT_BINARY_DIR}/CMakeFiles/viaduct_torch_pch.dir/cmake_pch.hxx.gch.sum "${torch_version} ${torch_headers}\n")

# viaduct_uses_torch(TARGET): libtorch, and the precompiled header.
function(viaduct_uses_torch TARGET)
  target_link_libraries(${TARGET} PUBLIC viaduct_torch)
  # The precompiled header was made with it; programs would get -fPIE.
  target_compile_options(${TARGET} PRIVATE -fPIC)
  target_precompile_headers(${TARGET} REUSE_FROM viaduct_torch_pch)
endfunction()
