// Checkpoint -> live model.
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>

#include "viaduct/bridge/direct_read.h"
#include "viaduct/bridge/plan_builder.h"
#include "viaduct/bridge/rank_view.h"
#include "viaduct/bridge/verify.h"
#include "viaduct/core/error.h"
#include "viaduct/nn/agree.h"
#include "viaduct/nn/live.h"
#include "viaduct/nn/tensor_sink.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::nn {

namespace {

// The plan of this rank's tensors: target file i is live[i].
bridge::TransferPlan plan_load(const bridge::Checkpoint& source, const parallel::Mesh& mesh,
                               const std::vector<LiveTensor>& live, LoadReport& report) {
  bridge::MegatronTarget target;
  target.parallel = mesh.sizes();
  const std::vector<bridge::ModelChunk> views =
      bridge::rank_view(source, target, grid_rank(mesh.sizes(), mesh.place()));
  std::vector<size_t> next(views.size(), 0);
  bridge::PlanBuilder builder(source.stored());
  formats::TargetLayout memory;
  for (size_t i = 0; i < live.size(); ++i) {
    const auto chunk = static_cast<size_t>(live[i].parameter.chunk);
    const bridge::View& view = views[chunk].view;
    // Both are in the model's order; of the view's, those of modules that do not run are passed over.
    while (view.tensors.at(next[chunk]).name != live[i].parameter.name) ++next[chunk];
    const bridge::ViewTensor& tensor = view.tensors[next[chunk]++];
    const DType dtype = torchx::dtype_of(live[i].tensor.scalar_type());
    VIADUCT_USER_CHECK(is_floating(tensor.dtype), "{}: {} holds values of type {}, which are no weights",
                       source.path().string(), tensor.name, tensor.dtype);
    report.casts += dtype != tensor.dtype;
    const auto number = static_cast<uint32_t>(i);
    bridge::add_to_plan(view, tensor, dtype, number, builder);
    memory.files.push_back({tensor.name, static_cast<uint64_t>(num_bytes(dtype, num_elements(tensor.shape)))});
    memory.tensors.push_back({tensor.name, dtype, tensor.shape, {}});
    memory.tensors.back().chunks.push_back({Shape::filled(tensor.shape.rank(), 0), tensor.shape, number, 0, {}});
  }
  return builder.finish(std::move(memory));
}

void load(const bridge::Checkpoint& source, const parallel::Mesh& mesh, const std::vector<LiveTensor>& live,
          const bridge::TransferPlan& plan, const LoadOptions& options, LoadReport& report) {
  bridge::ExecuteOptions execute_options;
  execute_options.threads = options.threads;
  execute_options.max_memory = options.max_memory;
  execute_options.progress = options.progress;
  execute_options.crc = false;
  if (mesh.world.rank() == 0) bridge::check_ties(source, execute_options);
  if (options.progress) options.progress->begin("loading", plan.bytes_of_data());
  // What lies in memory as it lies in the files is read there; the rest is put together.
  std::vector<bool> direct = bridge::direct_targets(plan);
  std::vector<std::span<std::byte>> memory(live.size());
  std::vector<at::Tensor> tensors;
  for (size_t i = 0; i < live.size(); ++i) {
    const at::Tensor& tensor = live[i].tensor;
    direct[i] = direct[i] && tensor.is_cpu() && tensor.is_contiguous();
    if (direct[i]) memory[i] = torchx::bytes_of(tensor);
    tensors.push_back(tensor);
  }
  report.bytes_read = bridge::read_directly(plan, direct, memory, execute_options);
  direct.flip();
  if (std::find(direct.begin(), direct.end(), true) != direct.end()) {
    const auto from = bridge::open_source(plan);
    const auto to = tensor_sink(std::move(tensors), options.max_pinned);
    execute_options.files = direct;
    report.bytes_read += bridge::execute(plan, *from, *to, execute_options).bytes_read;
  }
  if (options.progress) options.progress->end();
  report.tensors = live.size();
  report.bytes_loaded = plan.bytes_of_data();
}

}  // namespace

std::unique_ptr<bridge::Checkpoint> open_on_all_ranks(const std::string& path_or_name, const parallel::Mesh& mesh,
                                                      const bridge::OpenOptions& options, Progress* progress,
                                                      c10::Device device) {
  std::unique_ptr<bridge::Checkpoint> source;
  const bool first = mesh.world.rank() == 0;
  agree(mesh.world, device, [&] {
    if (first) source = bridge::fetch_checkpoint(path_or_name, options, progress);
  });
  agree(mesh.world, device, [&] {
    if (!first) source = bridge::fetch_checkpoint(path_or_name, options);
  });
  return source;
}

LoadReport load_weights(const bridge::Checkpoint& source, const ModelChunks& chunks, const parallel::Mesh& mesh,
                        const LoadOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const c10::Device device = device_of(chunks);
  LoadReport report;
  std::vector<LiveTensor> live;
  bridge::TransferPlan plan;
  // Nothing is read before every rank knows that it can be.
  agree(mesh.world, device, [&] {
    live = match_modules(chunks, source.arch(), mesh, source.path().string(), options.keeps);
    plan = plan_load(source, mesh, live, report);
    const bridge::Proof proof = bridge::prove(plan, bridge::source_sizes(plan));
    VIADUCT_USER_CHECK(proof.holds(), "{} cannot be loaded:\n  {}", source.path().string(),
                       fmt::join(proof.problems, "\n  "));
  });
  agree(mesh.world, device, [&] { load(source, mesh, live, plan, options, report); });
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

LoadReport load_hf_weights(const std::string& path_or_name, const ModelChunks& chunks, const parallel::Mesh& mesh,
                           const LoadOptions& options) {
  const auto source = open_on_all_ranks(path_or_name, mesh, {}, options.progress, device_of(chunks));
  VIADUCT_USER_CHECK(source->world() == bridge::World::kHuggingFace,
                     "{} is a Megatron checkpoint, not a Hugging Face model: load it as such", path_or_name);
  return load_weights(*source, chunks, mesh, options);
}

}  // namespace viaduct::nn
