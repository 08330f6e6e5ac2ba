#include "python/weights.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "python/interrupt.h"
#include "python/tensor.h"
#include "viaduct/bridge/weight_stream.h"
#include "viaduct/hub/download.h"

namespace nb = nanobind;

namespace viaduct::python {

namespace {

nb::tuple tuple_of(const Shape& shape) {
  nb::list sizes;
  for (const int64_t size : shape) sizes.append(size);
  return nb::tuple(sizes);
}

// Iterator of (name, Tensor).
class WeightIterator {
 public:
  WeightIterator(bridge::View view, std::optional<DType> cast, std::shared_ptr<const void> owner)
      : owner_(std::move(owner)), stream_(std::make_unique<bridge::WeightStream>(std::move(view), cast)) {}

  nb::tuple next() {
    auto state = bridge::WeightStream::State::kWaiting;
    while (state == bridge::WeightStream::State::kWaiting) {
      {
        const nb::gil_scoped_release release;
        state = stream_->wait(50);
      }
      if (PyErr_CheckSignals() != 0) nb::raise_python_error();
    }
    if (state == bridge::WeightStream::State::kEnded) throw nb::stop_iteration();
    std::optional<bridge::LoadedTensor> loaded = stream_->next();
    const std::string name = loaded->name;
    return nb::make_tuple(name, Tensor(std::move(*loaded)));
  }

 private:
  std::shared_ptr<const void> owner_;
  std::unique_ptr<bridge::WeightStream> stream_;
};

// The view with those tensors alone, or with all.
bridge::View chosen(const Weights& weights, const std::optional<std::vector<size_t>>& indices) {
  if (!indices) return weights.view();
  bridge::View view;
  view.stored = weights.view().stored;
  for (const size_t index : *indices) view.tensors.push_back(weights.tensor(index));
  return view;
}

Weights load_tensors(const std::string& path_or_name, std::optional<int64_t> iteration, const nb::object& report) {
  auto raw = interruptible(report, [&](Progress& progress) {
    const Path path = hub::resolve_model(path_or_name, &progress).path;
    return std::make_shared<bridge::RawCheckpoint>(bridge::open_raw_checkpoint(path, iteration));
  });
  return {bridge::raw_view(*raw), raw, std::nullopt};
}

}  // namespace

std::optional<DType> parse_dtype(const std::optional<std::string>& name) {
  if (!name) return std::nullopt;
  const std::optional<DType> dtype = dtype_from_torch_name(*name);
  VIADUCT_USER_CHECK(dtype && is_floating(*dtype), "dtype: {} is no floating-point type; use bfloat16 or float32",
                     *name);
  return dtype;
}

Weights::Weights(bridge::View view, std::shared_ptr<const void> owner, std::optional<DType> cast,
                 std::vector<std::string> parameters)
    : view_(std::move(view)), owner_(std::move(owner)), cast_(cast), parameters_(std::move(parameters)) {}

nb::list Weights::describe() const {
  nb::list result;
  for (size_t i = 0; i < view_.tensors.size(); ++i) {
    const bridge::ViewTensor& tensor = view_.tensors[i];
    const nb::object parameter = parameters_.empty() ? nb::none() : nb::cast(parameters_[i]);
    result.append(
        nb::make_tuple(tensor.name, std::string(torch_name(dtype_of(tensor))), tuple_of(tensor.shape), parameter));
  }
  return result;
}

const bridge::ViewTensor& Weights::tensor(size_t index) const {
  VIADUCT_CHECK(index < view_.tensors.size(), "tensor {} of {}", index, view_.tensors.size());
  return view_.tensors[index];
}

void bind_weights(nb::module_& module) {
  nb::class_<WeightIterator>(module, "WeightIterator")
      .def("__iter__", [](nb::handle self) { return nb::borrow(self); })
      .def("__next__", &WeightIterator::next);
  nb::class_<Weights>(module, "Weights")
      .def("describe", &Weights::describe)
      .def("load",
           [](const Weights& weights, size_t index) {
             const bridge::ViewTensor& tensor = weights.tensor(index);
             return Tensor(interruptible(nb::none(), [&](Progress& progress) {
               return bridge::load_tensor(weights.view(), tensor, weights.dtype_of(tensor), &progress);
             }));
           })
      .def(
          "stream",
          [](const Weights& weights, const std::optional<std::vector<size_t>>& indices) {
            return WeightIterator(chosen(weights, indices), weights.cast(), weights.owner());
          },
          nb::arg("indices") = nb::none());
  module.def("load_tensors", &load_tensors, nb::arg("path"), nb::arg("iteration") = nb::none(),
             nb::arg("report").none() = nb::none());
}

}  // namespace viaduct::python
