// How torch pickles a tensor: a call of _rebuild_tensor_v2 (or _v3) on a storage named by a persistent id.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "viaduct/core/dtype.h"
#include "viaduct/core/shape.h"
#include "viaduct/formats/pickle.h"
#include "viaduct/formats/pickle_value.h"
#include "viaduct/formats/pickle_writer.h"

namespace viaduct::formats {

/// A view of a storage. Element (i, j, ...) lies at storage element offset + i * strides[0] + j * strides[1] + ...
struct TorchTensor {
  DType dtype{};
  std::string key;  // of the storage: its bytes are in "<root>/data/<key>"
  uint64_t storage_bytes = 0;
  int64_t offset = 0;  // in storage elements
  Shape shape;         // in elements of dtype (F4: two a byte)
  Shape strides;       // in elements; empty when row-major without gaps

  /// Bytes from the start of the storage to the first element.
  uint64_t byte_offset() const { return static_cast<uint64_t>(num_bytes(dtype, offset)); }
};

/// True for a call that makes a tensor or a parameter.
bool is_tensor_call(const PickleNode& node);

/// The tensor that the call describes. UserError (without origin: the caller names file and key) when the element
/// type is not supported or when the view reaches outside its storage or has more elements than it.
TorchTensor parse_tensor_call(const PickleNode& call);

/// Writes the call for a whole, row-major tensor whose storage has this key, as torch.save does.
void write_tensor_call(PickleWriter& to, DType dtype, const Shape& shape, std::string_view storage_key);

/// data.pkl of torch.save(tensor): one tensor, storage "0".
std::string write_tensor_pickle(DType dtype, const Shape& shape);

}  // namespace viaduct::formats
