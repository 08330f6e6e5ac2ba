// The Python module's native half: python/viaduct/__init__.py gives it upstream's signatures.
#include <nanobind/nanobind.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <chrono>
#include <future>

#include "python/tensor.h"
#include "viaduct/bridge/auto_bridge.h"
#include "viaduct/bridge/weight_stream.h"

namespace nb = nanobind;

namespace viaduct::python {
namespace {

using bridge::AutoBridge;

struct Cancel : Progress {
  void begin(std::string_view, uint64_t) override {}
  void advance(uint64_t) override {}
  void end() override {}
  bool cancelled() override { return asked; }
  std::atomic<bool> asked = false;
};

// Runs `work` on a thread without the GIL. Signals are only handled on Python's own thread, which looks for them:
// after Ctrl-C the work is stopped, and KeyboardInterrupt raised once nothing of it runs.
template <class F>
auto interruptible(F work) {
  Cancel cancel;
  auto result = std::async(std::launch::async, [&] { return work(cancel); });
  bool interrupted = false;
  for (bool ready = false; !ready;) {
    {
      const nb::gil_scoped_release release;
      ready = result.wait_for(std::chrono::milliseconds(interrupted ? 1000 : 50)) == std::future_status::ready;
    }
    if (!ready && !interrupted && PyErr_CheckSignals() != 0) {
      interrupted = true;
      cancel.asked = true;
    }
  }
  if (interrupted) {
    try {
      result.get();
    } catch (const Error&) {  // Interrupted, or what stopped it first: Python's own exception is pending
    }
    nb::raise_python_error();
  }
  return result.get();
}

std::optional<DType> parse_dtype(const std::optional<std::string>& name) {
  if (!name) return std::nullopt;
  const std::optional<DType> dtype = dtype_from_torch_name(*name);
  VIADUCT_USER_CHECK(dtype && is_floating(*dtype), "dtype: {} is no floating-point type; use bfloat16 or float32",
                     *name);
  return dtype;
}

nb::dict report(const bridge::ConversionReport& done) {
  nb::dict result;
  result["bytes_read"] = done.bytes_read;
  result["bytes_written"] = done.bytes_written;
  result["tensors"] = done.tensors;
  result["seconds"] = done.seconds;
  return result;
}

// Iterator of (name, Tensor). Keeps its bridge alive.
class WeightIterator {
 public:
  explicit WeightIterator(std::shared_ptr<AutoBridge> bridge)
      : bridge_(std::move(bridge)), stream_(std::make_unique<bridge::WeightStream>(bridge_->checkpoint())) {}

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
  std::shared_ptr<AutoBridge> bridge_;
  std::unique_ptr<bridge::WeightStream> stream_;
};

// Python holds a bridge together with what its iterators share.
struct Bridge {
  std::shared_ptr<AutoBridge> bridge;
};

void bind_bridge(nb::module_& module) {
  nb::class_<WeightIterator>(module, "WeightIterator")
      .def("__iter__", [](nb::handle self) { return nb::borrow(self); })
      .def("__next__", &WeightIterator::next);
  nb::class_<Bridge>(module, "Bridge")
      .def_static(
          "open",
          [](const Path& path, const std::optional<Path>& reference) {
            bridge::OpenOptions open;
            open.reference = reference;
            return interruptible([&](Cancel&) {
              return Bridge{std::make_shared<AutoBridge>(AutoBridge::from_hf_pretrained(path, open))};
            });
          },
          nb::arg("path"), nb::arg("reference") = nb::none())
      .def_static("can_handle", &AutoBridge::can_handle)
      .def_static("list_supported_models", &AutoBridge::list_supported_models)
      .def_prop_ro("is_megatron",
                   [](const Bridge& b) { return b.bridge->checkpoint().world() == bridge::World::kMegatron; })
      .def("tasks",
           [](const Bridge& b) {
             nb::list tasks;
             for (const bridge::ConversionTask& task : b.bridge->get_conversion_tasks()) {
               nb::list shape;
               for (const int64_t size : task.shape) shape.append(size);
               tasks.append(nb::make_tuple(task.megatron_name, task.hf_names, nb::tuple(shape),
                                           std::string(torch_name(task.dtype))));
             }
             return tasks;
           })
      .def("weights", [](const Bridge& b) { return WeightIterator(b.bridge); })
      .def("import_ckpt",
           [](const Bridge& b, const Path& root, const std::optional<std::string>& dtype, int tp, int pp, int ep,
              bool overwrite) {
             bridge::MegatronTarget target;
             target.dtype = parse_dtype(dtype);
             target.parallel.tp = tp;
             target.parallel.pp = pp;
             target.parallel.ep = ep;
             return report(interruptible([&](Cancel& cancel) {
               bridge::RunOptions run;
               run.overwrite = overwrite;
               run.progress = &cancel;
               return b.bridge->import_ckpt(root, target, run);
             }));
           })
      .def("save_hf",
           [](const Bridge& b, const Path& folder, const std::optional<std::string>& dtype, bool overwrite) {
             bridge::HfTarget target;
             target.dtype = parse_dtype(dtype);
             return report(interruptible([&](Cancel& cancel) {
               bridge::RunOptions run;
               run.overwrite = overwrite;
               run.progress = &cancel;
               return b.bridge->save_hf_pretrained(folder, target, run);
             }));
           });
  module.def("compare", [](const Bridge& a, const Bridge& b) {
    const bridge::Comparison found = interruptible([&](Cancel& cancel) {
      bridge::ExecuteOptions options;
      options.progress = &cancel;
      const auto& left = a.bridge->checkpoint();
      const auto& right = b.bridge->checkpoint();
      return bridge::compare(bridge::hf_view(left, &right.graph()), bridge::hf_view(right), options);
    });
    nb::list differences;
    for (const bridge::Difference& difference : found.differences)
      differences.append(nb::make_tuple(difference.tensor, difference.what));
    return nb::make_tuple(found.tensors, found.bytes, differences);
  });
}

}  // namespace
}  // namespace viaduct::python

NB_MODULE(_core, module) {
  // Base first: the translator registered last is asked first.
  nb::exception<viaduct::InternalError>(module, "InternalError", PyExc_RuntimeError);
  nb::exception<viaduct::UserError>(module, "ViaductError", PyExc_ValueError);
  viaduct::python::bind_tensor(module);
  viaduct::python::bind_bridge(module);
}
