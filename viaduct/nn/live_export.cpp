// Live model -> Hugging Face tensors.
#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <optional>

#include "viaduct/bridge/export_tensors.h"
#include "viaduct/bridge/plan_builder.h"
#include "viaduct/bridge/weight_stream.h"
#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"
#include "viaduct/nn/agree.h"
#include "viaduct/nn/live.h"
#include "viaduct/nn/shard_gather.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::nn {

namespace {

using bridge::ExportTensor;

// Makes an exported tensor of the numbers that the model holds.
class Finisher {
 public:
  /// `graph`: of the target's names, where it is not the source's.
  Finisher(const bridge::Checkpoint* source, const bridge::WeightGraph* graph, bool source_dtypes)
      : source_(source), graph_(graph), source_dtypes_(source_dtypes) {}

  at::Tensor finish(const ExportTensor& wanted, at::Tensor numbers) const {
    if (wanted.import_add != 0 || wanted.original != layout::kNoTensor) return with_values(wanted, numbers);
    return numbers.to(torchx::scalar_type(dtype_of(wanted)));
  }

  // What is no weight, and weights that the model runs without.
  at::Tensor read(const ExportTensor& wanted, c10::Device device) const {
    bridge::ViewTensor tensor{wanted.name, wanted.dtype, wanted.shape, {}};
    if (wanted.hf_tensor < 0) {
      tensor.pieces = {bridge::whole_piece(wanted.kept, wanted.shape)};
    } else {
      tensor = of_source(static_cast<size_t>(wanted.hf_tensor));
    }
    const DType dtype = wanted.hf_tensor < 0 ? wanted.dtype : dtype_of(wanted);
    if (dtype != tensor.dtype) tensor.original = layout::kNoTensor;  // originals are of its own type
    const bridge::LoadedTensor loaded = bridge::load_tensor({&source_->stored(), {}}, tensor, dtype);
    at::Tensor result = at::empty(torchx::sizes_of(loaded.shape), torchx::scalar_type(loaded.dtype));
    std::copy(loaded.bytes.bytes().begin(), loaded.bytes.bytes().end(), torchx::bytes_of(result).begin());
    return result.to(device);
  }

 private:
  DType dtype_of(const ExportTensor& wanted) const {
    if (!source_dtypes_) return wanted.dtype;
    return source_->dtype_of(bridge::pieces_of(wanted, *source_, graph_));
  }

  // As the source's own export has it.
  const bridge::ViewTensor& of_source(size_t hf_tensor) const {
    if (!view_) view_ = bridge::hf_view(*source_, graph_);
    return view_->tensors.at(hf_tensor);
  }

  // By the plan that a file would be exported with.
  at::Tensor with_values(const ExportTensor& wanted, const at::Tensor& numbers) const {
    const at::Tensor from = numbers.cpu().contiguous();
    bridge::StoredTensors stored;
    std::vector<std::span<const std::byte>> files;
    const auto add = [&](const char* name, DType dtype, std::span<const std::byte> bytes) {
      const auto file = static_cast<uint32_t>(files.size());
      stored.files.emplace_back(name);
      stored.tensors.push_back({wanted.name, dtype, wanted.shape, {}});
      stored.tensors.back().chunks.push_back(
          {Shape::filled(wanted.shape.rank(), 0), {file, 0, dtype, wanted.shape, {}}});
      files.push_back(bytes);
    };
    add("the live model", wanted.numbers, torchx::bytes_of(from));
    bridge::LoadedTensor original;
    if (wanted.original != layout::kNoTensor) {
      const bridge::View view{&source_->stored(), {}};
      const bridge::ViewTensor whole{
          wanted.name, wanted.dtype, wanted.shape, {bridge::whole_piece(wanted.original, wanted.shape)}};
      original = bridge::load_tensor(view, whole, wanted.dtype);
      add("the source", wanted.dtype, original.bytes.bytes());
    }
    bridge::PlanBuilder builder(stored);
    uint32_t encoder = bridge::kNoEncoder;
    if (wanted.original != layout::kNoTensor)
      encoder = builder.add_encoder({wanted.numbers, bridge::kNoScales, builder.chunk_of(1), wanted.import_add});
    const DType dtype = dtype_of(wanted);
    builder.add(Shape::filled(wanted.shape.rank(), 0), wanted.shape, dtype, {bridge::whole_piece(0, wanted.shape)},
                0, 0, -wanted.import_add, encoder);
    const bridge::TransferPlan plan = builder.finish_virtual();
    at::Tensor result = at::empty(torchx::sizes_of(wanted.shape), torchx::scalar_type(dtype));
    const auto in = bridge::memory_source(files);
    const auto out = bridge::memory_sink({torchx::bytes_of(result)});
    bridge::ExecuteOptions options;
    options.crc = false;
    options.max_memory = 32u << 20;
    bridge::execute(plan, *in, *out, options);
    return result.to(numbers.device());
  }

  const bridge::Checkpoint* source_;
  const bridge::WeightGraph* graph_;
  bool source_dtypes_;
  mutable std::optional<bridge::View> view_;  // made when it is first asked for
};

void export_tensors(const ShardGather& gather, const parallel::Mesh& mesh, const bridge::WeightGraph& graph,
                    const std::vector<ExportTensor>& tensors, const Finisher& finisher,
                    const ReceiveTensor& receive, const ExportOptions& options) {
  const bool first_only = options.receivers == Receivers::kFirst;
  const bool receives = !first_only || mesh.world.rank() == 0;
  const auto bytes_of = [](const ExportTensor& tensor) {
    return static_cast<uint64_t>(num_bytes(tensor.dtype, num_elements(tensor.shape)));
  };
  // Of those that the ranks do not hold the source's are read.
  const auto is_live = [&](const ExportTensor& tensor) {
    return tensor.hf_tensor >= 0 && gather.holds(graph, static_cast<size_t>(tensor.hf_tensor));
  };
  if (options.progress) {
    uint64_t total = 0;
    for (const ExportTensor& tensor : tensors) total += bytes_of(tensor);
    options.progress->begin("exporting", total);
  }
  for (size_t next = 0; next < tensors.size();) {
    const size_t begin = next;
    std::vector<WantedTensor> wanted;
    for (uint64_t size = 0; next < tensors.size(); ++next) {
      const ExportTensor& tensor = tensors[next];
      if (next != begin && size + bytes_of(tensor) > options.bucket) break;
      size += bytes_of(tensor);
      if (is_live(tensor))
        wanted.push_back({tensor.shape, tensor.numbers, graph.to_hf(static_cast<size_t>(tensor.hf_tensor))});
    }
    std::vector<at::Tensor> numbers = gather.gather(wanted, first_only);
    // A receiver that fails ends the others before they wait for it.
    agree(mesh.world, gather.device(), [&] {
      for (size_t i = begin, n = 0; i < next; ++i) {
        at::Tensor held = is_live(tensors[i]) ? std::exchange(numbers[n++], {}) : at::Tensor();
        if (receives)
          receive(tensors[i].name, held.defined() ? finisher.finish(tensors[i], std::move(held))
                                                  : finisher.read(tensors[i], gather.device()));
        if (!options.progress) continue;
        options.progress->advance(bytes_of(tensors[i]));
        if (options.progress->cancelled()) throw Interrupted("interrupted");
      }
    });
  }
  if (options.progress) options.progress->end();
}

void compare_replicas(const ShardGather& gather, const parallel::Mesh& mesh) {
  // Of all ranks, the hash of each tensor that they hold.
  const std::vector<std::vector<bridge::RankParameter>> ranks = gather.all_ranks();
  size_t most = 0;
  for (const auto& rank : ranks) most = std::max(most, rank.size());
  at::Tensor hashes = at::zeros({1, static_cast<int64_t>(most)}, at::kLong);
  for (size_t i = 0; i < gather.live().size(); ++i) {
    const at::Tensor tensor = gather.live()[i].tensor.cpu().contiguous();
    hashes.mutable_data_ptr<int64_t>()[i] = static_cast<int64_t>(xxh3_64(torchx::bytes_of(tensor)));
  }
  const at::Tensor all = mesh.world.all_gather(hashes.to(gather.device()), 0).cpu();
  // Parameter and first element of the shard: ranks either hold the same box or boxes that do not meet.
  std::map<std::pair<int32_t, std::string>, std::pair<size_t, int64_t>> seen;
  ProblemList problems;
  for (size_t member = 0; member < ranks.size(); ++member)
    for (size_t i = 0; i < ranks[member].size(); ++i) {
      const bridge::RankParameter& held = ranks[member][i];
      std::string boxes;
      for (const layout::Piece& piece : held.tensor.pieces) boxes += layout::to_string(piece);
      const int64_t hash = all.const_data_ptr<int64_t>()[static_cast<int64_t>(member) * static_cast<int64_t>(most) +
                                                         static_cast<int64_t>(i)];
      const auto [first, fresh] = seen.try_emplace({held.parameter, std::move(boxes)}, std::pair(member, hash));
      if (!fresh && first->second.second != hash)
        problems.add(fmt::format("{} on ranks {} and {}", held.tensor.name,
                                 mesh.world.global_rank(static_cast<int>(first->second.first)),
                                 mesh.world.global_rank(static_cast<int>(member))));
    }
  VIADUCT_USER_CHECK(
      problems.empty(),
      "ranks hold other bits of one and the same shard, so that it is not clear which are the model's: {}",
      problems.text());
}

}  // namespace

void export_hf_weights(const ModelChunks& chunks, const parallel::Mesh& mesh, const bridge::Checkpoint& source,
                       const ReceiveTensor& receive, const ExportOptions& options) {
  const ShardGather gather(chunks, mesh, source.arch(), source.path().string());
  if (options.check_replicas) compare_replicas(gather, mesh);
  bridge::HfTarget target;
  target.dtype = options.dtype;
  target.held = gather.held_or_imported(source);
  bridge::ExportTensors wanted;
  agree(mesh.world, gather.device(), [&] { wanted = bridge::export_tensors(source, target); });
  const bridge::WeightGraph& graph = wanted.graph ? *wanted.graph : source.graph();
  export_tensors(gather, mesh, graph, wanted.tensors, Finisher(&source, wanted.graph.get(), options.source_dtypes),
                 receive, options);
}

void export_hf_weights(const ModelChunks& chunks, const parallel::Mesh& mesh, const bridge::WeightGraph& graph,
                       const ReceiveTensor& receive, const ExportOptions& options) {
  VIADUCT_USER_CHECK(!options.source_dtypes, "a model without a source has no types of a source");
  const ShardGather gather(chunks, mesh, graph.arch, graph.arch.family);
  if (options.check_replicas) compare_replicas(gather, mesh);
  std::vector<ExportTensor> tensors;
  for (size_t i = 0; i < graph.hf_tensors.size(); ++i) {
    ExportTensor& tensor = tensors.emplace_back();
    tensor.name = graph.hf_tensors[i].name;
    tensor.shape = graph.hf_tensors[i].shape;
    tensor.hf_tensor = static_cast<int32_t>(i);
    VIADUCT_USER_CHECK(
        gather.holds(graph, i),
        "{} is a tensor of the {} model, and no rank holds what it is made of: give the checkpoint that "
        "the model was loaded from, which has it",
        tensor.name, graph.arch.family);
    tensor.numbers = gather.numbers_of(graph, i);
    tensor.dtype = options.dtype.value_or(tensor.numbers);
    tensor.import_add = graph.add_of_hf(i);
  }
  export_tensors(gather, mesh, graph, tensors, Finisher(nullptr, nullptr, false), receive, options);
}

void check_replicas(const ModelChunks& chunks, const parallel::Mesh& mesh, const models::ArchSpec& arch) {
  compare_replicas(ShardGather(chunks, mesh, arch, arch.family), mesh);
}

}  // namespace viaduct::nn
