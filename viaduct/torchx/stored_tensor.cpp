#include "viaduct/torchx/stored_tensor.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "viaduct/torchx/tensor.h"

namespace viaduct::torchx {

at::Tensor stored_tensor(const formats::TensorReader& reader, const formats::StoredTensor& stored) {
  const at::Tensor tensor = at::empty(sizes_of(stored.shape), scalar_type(stored.dtype));
  std::ranges::copy(formats::read_tensor(reader, stored), bytes_of(tensor).begin());
  return tensor;
}

std::map<std::string, at::Tensor> stored_tensors(const formats::TensorReader& reader) {
  std::map<std::string, at::Tensor> result;
  for (const formats::StoredTensor& stored : reader.tensors()) result[stored.name] = stored_tensor(reader, stored);
  return result;
}

}  // namespace viaduct::torchx
