#include "viaduct/formats/torch_tensor.h"

#include <array>
#include <optional>

#include "viaduct/core/error.h"

namespace viaduct::formats {

namespace {

using Kind = PickleNode::Kind;

// Element types with a storage class of their own. The others come as _rebuild_tensor_v3 on untyped bytes.
constexpr std::array<std::pair<DType, std::string_view>, 12> kStorages{{{DType::kF64, "DoubleStorage"},
                                                                        {DType::kF32, "FloatStorage"},
                                                                        {DType::kF16, "HalfStorage"},
                                                                        {DType::kBF16, "BFloat16Storage"},
                                                                        {DType::kI64, "LongStorage"},
                                                                        {DType::kI32, "IntStorage"},
                                                                        {DType::kI16, "ShortStorage"},
                                                                        {DType::kI8, "CharStorage"},
                                                                        {DType::kU8, "ByteStorage"},
                                                                        {DType::kBool, "BoolStorage"},
                                                                        {DType::kC128, "ComplexDoubleStorage"},
                                                                        {DType::kC64, "ComplexFloatStorage"}}};

std::optional<DType> storage_dtype(std::string_view global) {
  for (const auto& [dtype, name] : kStorages)
    if (global.starts_with("torch.") && global.substr(6) == name) return dtype;
  return std::nullopt;
}

std::string_view storage_class(DType dtype) {
  for (const auto& [d, name] : kStorages)
    if (d == dtype) return name;
  return {};
}

Shape shape_of(const PickleNode& tuple, std::string_view what) {
  VIADUCT_USER_CHECK(tuple.is(Kind::kTuple) || tuple.is(Kind::kList), "a tensor's {} is no tuple", what);
  VIADUCT_USER_CHECK(tuple.size() <= Shape::kMaxRank, "a tensor with {} axes: at most {} are supported",
                     tuple.size(), Shape::kMaxRank);
  Shape shape;
  for (size_t i = 0; i < tuple.size(); ++i) {
    VIADUCT_USER_CHECK(tuple.item(i).is(Kind::kInt) && tuple.item(i).integer() >= 0,
                       "a tensor's {} holds something else than numbers of 0 or more", what);
    shape.push_back(tuple.item(i).integer());
  }
  return shape;
}

struct Storage {
  std::string_view global;
  std::string_view key;
  int64_t count;
};

Storage storage_of(const PickleNode& node) {
  VIADUCT_USER_CHECK(node.is(Kind::kPersistent), "a tensor without storage");
  const PickleNode id = node.persistent_id();
  VIADUCT_USER_CHECK(id.is(Kind::kTuple) && id.size() == 5 && id.item(0).is(Kind::kString) &&
                         id.item(0).text() == "storage" && id.item(1).is(Kind::kGlobal) &&
                         id.item(2).is(Kind::kString) && id.item(4).is(Kind::kInt) && id.item(4).integer() >= 0,
                     "a persistent id that is no storage");
  const std::string_view key = id.item(2).text();
  VIADUCT_USER_CHECK(!key.empty() && key.size() <= 200, "a storage key of {} bytes", key.size());
  return {id.item(1).text(), key, id.item(4).integer()};
}

// Checks the view against its storage, in units of stored elements.
void check_view(const TorchTensor& tensor, const Shape& size, const Shape& strides, int64_t storage_elements) {
  VIADUCT_USER_CHECK(size.rank() == strides.rank(), "a tensor of shape {} has strides {}", size, strides);
  const int64_t count = num_elements(size);
  VIADUCT_USER_CHECK(count <= storage_elements && tensor.offset >= 0 && tensor.offset <= storage_elements,
                     "a tensor of shape {} at element {} of a storage of {} elements", size, tensor.offset,
                     storage_elements);
  if (count == 0) return;
  int64_t last = tensor.offset;
  bool fits = true;
  for (int axis = 0; axis < size.rank(); ++axis) {
    int64_t step = 0;
    fits = fits && !__builtin_mul_overflow(size[axis] - 1, strides[axis], &step) &&
           !__builtin_add_overflow(last, step, &last);
  }
  VIADUCT_USER_CHECK(fits && last < storage_elements,
                     "a tensor of shape {} with strides {} at element {} reaches beyond its storage of {} elements",
                     size, strides, tensor.offset, storage_elements);
}

bool is_contiguous(const Shape& size, const Shape& strides) {
  const Shape dense = row_major_strides(size);
  for (int axis = 0; axis < size.rank(); ++axis)
    if (size[axis] > 1 && strides[axis] != dense[axis]) return false;
  return true;
}

}  // namespace

bool is_tensor_call(const PickleNode& node) {
  if (!node.is(Kind::kCall) || !node.callable().is(Kind::kGlobal)) return false;
  const std::string_view name = node.callable().text();
  return name.starts_with("torch._utils._rebuild_") || name == "torch._tensor._rebuild_from_type_v2";
}

TorchTensor parse_tensor_call(const PickleNode& node) {
  PickleNode call = node;
  // A parameter is a call on a tensor.
  for (int depth = 0; call.is_call_of("torch._utils._rebuild_parameter") ||
                      call.is_call_of("torch._utils._rebuild_parameter_with_state");
       ++depth) {
    VIADUCT_USER_CHECK(depth < 4 && call.arguments().size() >= 1 && call.arguments().item(0).is(Kind::kCall),
                       "a parameter without tensor");
    call = call.arguments().item(0);
  }
  VIADUCT_USER_CHECK(call.is(Kind::kCall), "a tensor that is no call");
  std::string_view function = call.callable().text();
  PickleNode arguments = call.arguments();
  // A tensor with attributes of its own: the function that makes it, its class, what the function is called with.
  if (call.is_call_of("torch._tensor._rebuild_from_type_v2") && arguments.size() >= 3 &&
      arguments.item(0).is(Kind::kGlobal) && arguments.item(1).is(Kind::kGlobal) &&
      arguments.item(1).text() == "torch.Tensor" && arguments.item(2).is(Kind::kTuple)) {
    function = arguments.item(0).text();
    arguments = arguments.item(2);
  }
  const bool v3 = function == "torch._utils._rebuild_tensor_v3";
  VIADUCT_USER_CHECK(
      v3 || function == "torch._utils._rebuild_tensor_v2" || function == "torch._utils._rebuild_tensor",
      "a tensor made by {} (quantized, sparse or a subclass) is not supported", function);
  VIADUCT_USER_CHECK(arguments.size() >= (v3 ? 7u : 4u), "{} with {} arguments", function, arguments.size());
  const Storage storage = storage_of(arguments.item(0));
  TorchTensor tensor;
  tensor.key = storage.key;
  VIADUCT_USER_CHECK(arguments.item(1).is(Kind::kInt), "a tensor's storage offset is no number");
  tensor.offset = arguments.item(1).integer();
  const Shape size = shape_of(arguments.item(2), "size");
  const Shape strides = shape_of(arguments.item(3), "strides");

  std::optional<DType> dtype;
  if (v3) {
    const PickleNode name = arguments.item(6);
    if (name.is(Kind::kGlobal)) dtype = dtype_from_torch_name(name.text());
    VIADUCT_USER_CHECK(dtype.has_value(), "element type {} is not supported",
                       name.is(Kind::kGlobal) ? name.text() : "?");
  } else {
    dtype = storage_dtype(storage.global);
    VIADUCT_USER_CHECK(dtype.has_value(), "elements of {} are not supported", storage.global);
  }
  tensor.dtype = *dtype;
  const bool untyped = storage.global == "torch.storage.UntypedStorage";
  VIADUCT_USER_CHECK(v3 == untyped, "{} on a {}", function, storage.global);
  const int64_t stored_bytes = info(tensor.dtype).block_bytes;  // of one element as torch counts them
  int64_t bytes = storage.count;
  VIADUCT_USER_CHECK(untyped || !__builtin_mul_overflow(storage.count, stored_bytes, &bytes),
                     "a storage of {} elements of {}", storage.count, tensor.dtype);
  tensor.storage_bytes = static_cast<uint64_t>(bytes);
  check_view(tensor, size, strides, bytes / stored_bytes);

  tensor.shape = size;
  const bool contiguous = is_contiguous(size, strides);
  if (!contiguous) tensor.strides = strides;
  if (!is_byte_sized(tensor.dtype)) {
    const int codes = info(tensor.dtype).block_elements;
    VIADUCT_USER_CHECK(contiguous && size.rank() > 0, "a view of packed {} elements is not supported",
                       tensor.dtype);
    tensor.shape[size.rank() - 1] *= codes;
    tensor.offset *= codes;
  }
  return tensor;
}

void write_tensor_call(PickleWriter& to, DType dtype, const Shape& shape, std::string_view storage_key) {
  VIADUCT_USER_CHECK(!torch_name(dtype).empty(), "torch has no element type {}", dtype);
  const std::string_view storage = storage_class(dtype);
  const bool v3 = storage.empty();
  const int codes = info(dtype).block_elements;
  Shape size = shape;
  VIADUCT_USER_CHECK(codes == 1 || (size.rank() > 0 && size[size.rank() - 1] % codes == 0),
                     "a {} tensor of shape {} does not fill whole bytes", dtype, shape);
  if (codes > 1) size[size.rank() - 1] /= codes;
  const Shape strides = row_major_strides(size);
  const auto write_shape = [&](const Shape& values) {
    if (values.rank() > 3) to.mark();
    for (const int64_t value : values) to.integer(value);
    to.tuple(static_cast<size_t>(values.rank()));
  };

  to.global("torch._utils", v3 ? "_rebuild_tensor_v3" : "_rebuild_tensor_v2");
  to.mark();
  to.mark();
  to.string("storage");
  if (v3)
    to.global("torch.storage", "UntypedStorage");
  else
    to.global("torch", storage);
  to.string(storage_key);
  to.string("cpu");
  const int64_t count = num_elements(size);
  to.integer(v3 ? count * info(dtype).block_bytes : count);
  to.tuple(5);
  to.persistent();
  to.integer(0);
  write_shape(size);
  write_shape(strides);
  to.boolean(false);
  to.global("collections", "OrderedDict");
  to.empty_tuple();
  to.call();
  if (v3) to.global("torch", torch_name(dtype));
  to.tuple(v3 ? 7 : 6);
  to.call();
}

std::string write_tensor_pickle(DType dtype, const Shape& shape) {
  PickleWriter writer(2);
  write_tensor_call(writer, dtype, shape, "0");
  return writer.finish();
}

}  // namespace viaduct::formats
