#include "python/tensor.h"

#include <nanobind/stl/string.h>

#include "viaduct/core/error.h"

namespace nb = nanobind;

namespace viaduct::python {
namespace {

// DLPack's ABI, https://dmlc.github.io/dlpack/latest/c_api.html.
struct Device {
  int32_t type = 1;  // host memory
  int32_t id = 0;
};
struct ElementType {
  uint8_t code = 0;
  uint8_t bits = 0;
  uint16_t lanes = 1;
};
struct DlTensor {
  void* data = nullptr;
  Device device;
  int32_t rank = 0;
  ElementType type;
  int64_t* shape = nullptr;
  int64_t* strides = nullptr;
  uint64_t byte_offset = 0;
};
struct Managed {
  DlTensor tensor;
  void* context = nullptr;
  void (*deleter)(Managed*) = nullptr;
};
struct ManagedVersioned {
  uint32_t major = 1;
  uint32_t minor = 1;
  void* context = nullptr;
  void (*deleter)(ManagedVersioned*) = nullptr;
  uint64_t flags = 0;
  DlTensor tensor;
};

// What a capsule keeps alive.
template <class M>
struct Held {
  M managed;
  std::shared_ptr<const Buffer> bytes;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
};

uint8_t type_code(DType dtype) {
  switch (dtype) {
    case DType::kI64:
    case DType::kI32:
    case DType::kI16:
    case DType::kI8: return 0;
    case DType::kU64:
    case DType::kU32:
    case DType::kU16:
    case DType::kU8: return 1;
    case DType::kF64:
    case DType::kF32:
    case DType::kF16: return 2;
    case DType::kBF16: return 4;
    case DType::kC64:
    case DType::kC128: return 5;
    case DType::kBool: return 6;
    case DType::kF8E4M3: return 10;
    case DType::kF8E4M3FNUZ: return 11;
    case DType::kF8E5M2: return 12;
    case DType::kF8E5M2FNUZ: return 13;
    case DType::kF8E8M0: return 14;
    default: throw UserError(fmt::format("DLPack has no type for {}; take the bytes with uint8()", dtype));
  }
}

template <class M>
nb::object capsule(const char* name, PyCapsule_Destructor unused, std::shared_ptr<const Buffer> bytes,
                   const std::vector<int64_t>& shape, DType dtype) {
  const uint8_t code = type_code(dtype);
  auto held = std::make_unique<Held<M>>();
  held->bytes = std::move(bytes);
  held->shape = shape;
  held->strides.assign(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) held->strides[i - 1] = held->strides[i] * shape[i];
  DlTensor& tensor = held->managed.tensor;
  tensor.data = held->bytes->data();
  tensor.rank = static_cast<int32_t>(shape.size());
  tensor.type = {code, static_cast<uint8_t>(element_size(dtype) * 8), 1};
  tensor.shape = held->shape.data();
  tensor.strides = held->strides.data();
  held->managed.context = held.get();
  held->managed.deleter = [](M* managed) { delete static_cast<Held<M>*>(managed->context); };
  PyObject* made = PyCapsule_New(&held->managed, name, unused);
  if (!made) nb::raise_python_error();
  held.release();
  return nb::steal(made);
}

// A consumer renames the capsule that it takes; one that nobody took is freed here.
template <class M>
void free_unused(PyObject* object, const char* name) {
  if (!PyCapsule_IsValid(object, name)) return;
  M* managed = static_cast<M*>(PyCapsule_GetPointer(object, name));
  managed->deleter(managed);
}

}  // namespace

Tensor::Tensor(bridge::LoadedTensor loaded)
    : bytes_(std::make_shared<const Buffer>(std::move(loaded.bytes))), dtype_(loaded.dtype) {
  for (int i = 0; i < loaded.shape.rank(); ++i) shape_.push_back(loaded.shape[i]);
}

nb::tuple Tensor::shape() const {
  nb::list sizes;
  for (const int64_t size : shape_) sizes.append(size);
  return nb::tuple(sizes);
}

Tensor Tensor::uint8() const {
  Tensor row = *this;
  row.dtype_ = DType::kU8;
  row.shape_ = {static_cast<int64_t>(bytes_->size())};
  return row;
}

nb::object Tensor::dlpack(const nb::object& max_version) const {
  if (!max_version.is_none() && nb::cast<int>(max_version[0]) >= 1)
    return capsule<ManagedVersioned>(
        "dltensor_versioned", [](PyObject* o) { free_unused<ManagedVersioned>(o, "dltensor_versioned"); }, bytes_,
        shape_, dtype_);
  return capsule<Managed>(
      "dltensor", [](PyObject* o) { free_unused<Managed>(o, "dltensor"); }, bytes_, shape_, dtype_);
}

nb::object Tensor::view(const char* library, const nb::object& dtype) const {
  const nb::object row = nb::module_::import_(library).attr("from_dlpack")(nb::cast(uint8()));
  return row.attr("view")(dtype).attr("reshape")(shape());
}

nb::object Tensor::numpy() const {
  const std::string type(torch_name(dtype_));
  VIADUCT_USER_CHECK(is_byte_sized(dtype_) && !type.empty(),
                     "numpy has no type for {}; take the bytes with uint8()", dtype_);
  const bool extended = dtype_ == DType::kBF16 || type.starts_with("float8");
  const nb::object types = nb::module_::import_(extended ? "ml_dtypes" : "numpy");
  return view("numpy", nb::module_::import_("numpy").attr("dtype")(types.attr(type.c_str())));
}

nb::object Tensor::torch() const {
  const std::string type(torch_name(dtype_));
  VIADUCT_USER_CHECK(is_byte_sized(dtype_) && !type.empty(),
                     "torch has no type for {}; take the bytes with uint8()", dtype_);
  return view("torch", nb::module_::import_("torch").attr(type.c_str()));
}

void bind_tensor(nb::module_& module) {
  nb::class_<Tensor>(module, "Tensor", "A weight in memory of its own; array libraries share it through DLPack.")
      .def_prop_ro(
          "dtype", [](const Tensor& t) { return std::string(torch_name(t.dtype())); }, "torch's name")
      .def_prop_ro("shape", &Tensor::shape)
      .def_prop_ro("nbytes", &Tensor::num_bytes)
      .def("__repr__",
           [](const Tensor& t) {
             return "<Tensor of " + std::string(torch_name(t.dtype())) + ' ' +
                    nb::cast<std::string>(nb::repr(t.shape())) + '>';
           })
      .def("uint8", &Tensor::uint8, "The same memory as a row of bytes.")
      .def("numpy", &Tensor::numpy, "A numpy array of the same memory; bfloat16 and float8 are ml_dtypes' types.")
      .def("torch", &Tensor::torch, "A torch tensor of the same memory.")
      .def(
          "__array__",
          [](const Tensor& t, const nb::object& dtype, const nb::object& copy) -> nb::object {
            nb::object array = t.numpy();
            if (!dtype.is_none())
              array = array.attr("astype")(dtype);
            else if (!copy.is_none() && nb::cast<bool>(copy))
              array = array.attr("copy")();
            return array;
          },
          nb::arg("dtype") = nb::none(), nb::arg("copy") = nb::none())
      .def(
          "__dlpack__",
          [](const Tensor& t, const nb::object&, const nb::object& max_version, const nb::object&,
             const nb::object&) { return t.dlpack(max_version); },
          nb::kw_only(), nb::arg("stream") = nb::none(), nb::arg("max_version") = nb::none(),
          nb::arg("dl_device") = nb::none(), nb::arg("copy") = nb::none())
      .def("__dlpack_device__", [](const Tensor&) { return nb::make_tuple(1, 0); });
}

}  // namespace viaduct::python
