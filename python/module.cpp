// The Python module's native half: python/viaduct/*.py give it upstream's signatures.
#include <nanobind/nanobind.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "python/interrupt.h"
#include "python/provider.h"
#include "python/tensor.h"
#include "python/weights.h"
#include "viaduct/bridge/auto_bridge.h"
#include "viaduct/bridge/model_layout.h"
#include "viaduct/bridge/provider.h"
#include "viaduct/bridge/rank_view.h"

namespace nb = nanobind;

namespace viaduct::python {
namespace {

using bridge::AutoBridge;
using bridge::MegatronTarget;

// Python holds a bridge together with what its weights share.
struct Bridge {
  std::shared_ptr<AutoBridge> bridge;

  const bridge::Checkpoint& checkpoint() const { return bridge->checkpoint(); }
};

nb::dict report_of(const bridge::ConversionReport& done) {
  nb::dict result;
  result["bytes_read"] = done.bytes_read;
  result["bytes_written"] = done.bytes_written;
  result["tensors"] = done.tensors;
  result["seconds"] = done.seconds;
  return result;
}

Bridge open(const std::string& path_or_name, const std::optional<Path>& reference, const nb::object& report,
            bool stream) {
  bridge::OpenOptions options;
  options.reference = reference;
  return interruptible(report, [&](Progress& progress) {
    return Bridge{
        std::make_shared<AutoBridge>(stream ? AutoBridge::from_hf_stream(path_or_name, options, &progress)
                                            : AutoBridge::from_hf_pretrained(path_or_name, options, &progress))};
  });
}

nb::list tasks_of(const Bridge& b) {
  nb::list tasks;
  for (const bridge::ConversionTask& task : b.bridge->get_conversion_tasks()) {
    nb::list shape;
    for (const int64_t size : task.shape) shape.append(size);
    tasks.append(
        nb::make_tuple(task.megatron_name, task.hf_names, nb::tuple(shape), std::string(torch_name(task.dtype))));
  }
  return tasks;
}

Provider provider_of(const Bridge& b) {
  Provider provider{b.bridge->to_megatron_provider()};
  // finalize() of the user's own settings decides it.
  provider.config.expert_tensor_parallel_size = std::nullopt;
  return provider;
}

void finalize(const Bridge& b, Provider& provider) {
  bridge::check_provider(b.checkpoint(), provider.config);
  bridge::check_layout(b.checkpoint().arch(), bridge::parallelism_of(provider.config));
  provider.config.finalize();
}

// (number of ranks, the model chunks of one of them). `world_size` 0: as few ranks as the layout has.
nb::tuple rank_weights(const Bridge& b, const Provider& provider, int world_size, int rank,
                       const std::optional<std::string>& dtype) {
  bridge::check_provider(b.checkpoint(), provider.config);
  MegatronTarget target;
  target.dtype = parse_dtype(dtype);
  target.parallel = bridge::parallelism_of(provider.config);
  topology::Parallelism& parallel = target.parallel;
  if (world_size > 0) {
    parallel = parallel.with_world_size(world_size);
  } else {
    // Experts are dealt out among ranks that are data-parallel for all else.
    while (parallel.tp * parallel.cp * parallel.dp % (parallel.etp * parallel.ep) != 0) ++parallel.dp;
  }
  nb::list chunks;
  for (bridge::ModelChunk& chunk : bridge::rank_view(b.checkpoint(), target, rank))
    chunks.append(Weights(std::move(chunk.view), b.bridge, std::nullopt, std::move(chunk.parameters)));
  return nb::make_tuple(target.parallel.world_size(), chunks);
}

nb::dict import_ckpt(const Bridge& b, const Path& root, const std::optional<std::string>& dtype,
                     const Provider* provider, const std::vector<int>& sizes, bool overwrite,
                     const nb::object& report) {
  MegatronTarget target;
  target.dtype = parse_dtype(dtype);
  if (provider) {
    target.provider = provider->config;
    target.parallel = bridge::parallelism_of(provider->config);
  } else {
    target.parallel = {.tp = sizes.at(0),
                       .pp = sizes.at(1),
                       .vpp = sizes.at(2),
                       .cp = sizes.at(3),
                       .ep = sizes.at(4),
                       .etp = sizes.at(5)};
  }
  return report_of(interruptible(report, [&](Progress& progress) {
    bridge::RunOptions run;
    run.overwrite = overwrite;
    run.progress = &progress;
    return b.bridge->import_ckpt(root, target, run);
  }));
}

nb::dict save_hf(const Bridge& b, const Path& folder, const std::optional<std::string>& dtype, bool weights_only,
                 bool overwrite, const nb::object& report) {
  bridge::HfTarget target;
  target.dtype = parse_dtype(dtype);
  target.weights_only = weights_only;
  return report_of(interruptible(report, [&](Progress& progress) {
    bridge::RunOptions run;
    run.overwrite = overwrite;
    run.progress = &progress;
    return b.bridge->save_hf_pretrained(folder, target, run);
  }));
}

nb::tuple compare(const Bridge& a, const Bridge& b, const nb::object& report) {
  const bridge::Comparison found = interruptible(report, [&](Progress& progress) {
    bridge::ExecuteOptions options;
    options.progress = &progress;
    const bridge::Checkpoint& left = a.checkpoint();
    const bridge::Checkpoint& right = b.checkpoint();
    return bridge::compare(bridge::hf_view(left, &right.graph()), bridge::hf_view(right), options);
  });
  nb::list differences;
  for (const bridge::Difference& difference : found.differences)
    differences.append(nb::make_tuple(difference.tensor, difference.what));
  return nb::make_tuple(found.tensors, found.bytes, differences);
}

void bind_bridge(nb::module_& module) {
  const nb::object none = nb::none();
  nb::class_<Bridge>(module, "Bridge")
      .def_static("open", &open, nb::arg("path"), nb::arg("reference") = none, nb::arg("report").none() = none,
                  nb::arg("stream") = false)
      .def_static("can_handle",
                  [](const std::string& path_or_name) {
                    return interruptible(nb::none(),
                                         [&](Progress&) { return AutoBridge::can_handle(path_or_name); });
                  })
      .def_static("list_supported_models", &AutoBridge::list_supported_models)
      .def_prop_ro("path", [](const Bridge& b) { return b.checkpoint().path(); })
      .def_prop_ro("is_megatron",
                   [](const Bridge& b) { return b.checkpoint().world() == bridge::World::kMegatron; })
      .def("tasks", &tasks_of)
      .def("provider", &provider_of)
      .def("finalize", &finalize)
      .def(
          "hf_weights",
          [](const Bridge& b, const std::optional<std::string>& dtype) {
            return Weights(bridge::hf_view(b.checkpoint()), b.bridge, parse_dtype(dtype));
          },
          nb::arg("dtype") = none)
      .def("rank_weights", &rank_weights)
      .def("import_ckpt", &import_ckpt, nb::arg("root"), nb::arg("dtype") = none, nb::arg("provider").none() = none,
           nb::arg("sizes"), nb::arg("overwrite"), nb::arg("report").none() = none)
      .def("save_hf", &save_hf, nb::arg("folder"), nb::arg("dtype") = none, nb::arg("weights_only"),
           nb::arg("overwrite"), nb::arg("report").none() = none);
  module.def("compare", &compare, nb::arg("a"), nb::arg("b"), nb::arg("report").none() = none);
}

}  // namespace
}  // namespace viaduct::python

NB_MODULE(_core, module) {
  // Base first: the translator registered last is asked first.
  nb::exception<viaduct::InternalError>(module, "InternalError", PyExc_RuntimeError);
  nb::exception<viaduct::UserError>(module, "ViaductError", PyExc_ValueError);
  viaduct::python::bind_tensor(module);
  viaduct::python::bind_weights(module);
  viaduct::python::bind_provider(module);
  viaduct::python::bind_bridge(module);
}
