#include "cli/train/roundtrip.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <optional>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/progress_display.h"
#include "cli/train/ranks.h"
#include "viaduct/bridge/export_tensors.h"
#include "viaduct/bridge/weight_stream.h"
#include "viaduct/core/file.h"
#include "viaduct/core/strings.h"
#include "viaduct/nn/live.h"
#include "viaduct/nn/parameter_chunk.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::cli {

namespace {

// Compares what is exported with the source's own tensors, which come in the same order, and prints a line for
// each.
class Table {
 public:
  explicit Table(const bridge::Checkpoint& source) : wanted_(bridge::export_tensors(source, {})) {
    bridge::View all = bridge::hf_view(source, wanted_.graph.get());
    bridge::View view{all.stored, {}};
    std::map<std::string_view, const bridge::ViewTensor*> by_name;
    for (const bridge::ViewTensor& tensor : all.tensors) by_name.emplace(tensor.name, &tensor);
    for (const bridge::ExportTensor& tensor : wanted_.tensors) {
      width_ = std::max(width_, tensor.name.size());
      if (tensor.hf_tensor < 0) {
        view.tensors.push_back(
            {tensor.name, tensor.dtype, tensor.shape, {bridge::whole_piece(tensor.kept, tensor.shape)}});
        continue;
      }
      // A copy has its original's values.
      const layout::Expr::Input& input =
          (wanted_.graph ? *wanted_.graph : source.graph()).hf_tensors[static_cast<size_t>(tensor.hf_tensor)];
      bridge::ViewTensor expected = *by_name.at(input.name);
      expected.name = tensor.name;
      view.tensors.push_back(std::move(expected));
    }
    source_.emplace(std::move(view));
    fmt::print("{:<{}}  {:<20} {:<9} {}\n", "name", width_, "shape", "dtype", "equal");
  }

  void add(const std::string& name, const at::Tensor& tensor) {
    const bridge::LoadedTensor expected = source_->next().value();
    const at::Tensor found = tensor.cpu().contiguous();
    const bool equal = expected.name == name && torchx::dtype_of(found.scalar_type()) == expected.dtype &&
                       torchx::shape_of(found) == expected.shape &&
                       std::ranges::equal(torchx::bytes_of(found), expected.bytes.bytes());
    fmt::print("{:<{}}  {:<20} {:<9} {}\n", name, width_, fmt::format("{}", torchx::shape_of(found)),
               fmt::format("{}", torchx::dtype_of(found.scalar_type())), equal ? "yes" : "NO");
    ++tensors_;
    bytes_ += found.nbytes();
    different_ += !equal;
  }

  bool finish(const RoundtripOptions& options, int ranks) const {
    const std::string what = fmt::format("{} tensors, {}, through {} rank{}", grouped(tensors_),
                                         human_bytes(bytes_), ranks, ranks == 1 ? "" : "s");
    if (different_ == 0) {
      fmt::print("equal: {}, every bit\n", what);
    } else {
      fmt::print("different: {} of {} from those of {}\n", grouped(different_), what, options.model);
    }
    return different_ == 0;
  }

 private:
  bridge::ExportTensors wanted_;
  size_t width_ = 4;
  std::optional<bridge::WeightStream> source_;
  uint64_t tensors_ = 0, bytes_ = 0, different_ = 0;
};

// The most that a rank's memory has grown beyond what it was; of all ranks, known to the first.
uint64_t most_grown(uint64_t before, const parallel::Mesh& mesh, c10::Device device) {
  at::Tensor grown = at::full({1}, static_cast<int64_t>(peak_resident_memory() - before), at::kLong).to(device);
  mesh.world.all_reduce(grown, parallel::Reduce::kMax);
  return static_cast<uint64_t>(grown.item<int64_t>());
}

int roundtrip(const RoundtripOptions& options, Ranks& ranks) {
  const uint64_t before = peak_resident_memory();
  const parallel::Mesh& mesh = ranks.mesh();
  const c10::Device device = ranks.device();
  const auto source = nn::open_on_all_ranks(options.model, mesh, {}, ranks.progress(), device);
  const nn::ModelChunks chunks =
      nn::make_parameter_chunks(*source, mesh, parse_optional_dtype(options.dtype), device);
  const nn::LoadReport loaded = nn::load_weights(*source, chunks, mesh, {.progress = ranks.progress()});
  ranks.say(
      fmt::format("loaded {} of this rank in {}", human_bytes(loaded.bytes_loaded), human_seconds(loaded.seconds)));
  const uint64_t grown = most_grown(before, mesh, device);
  std::optional<Table> table;
  nn::ExportOptions export_options;
  export_options.receivers = nn::Receivers::kFirst;
  export_options.source_dtypes = true;
  export_options.check_replicas = true;
  nn::agree(mesh.world, device, [&] {
    if (ranks.first()) table.emplace(*source);
  });
  nn::export_hf_weights(
      chunks, mesh, *source, [&](const std::string& name, const at::Tensor& tensor) { table->add(name, tensor); },
      export_options);
  ranks.say(fmt::format("memory of a rank grew by {} at most while it loaded, {} with the export",
                        human_bytes(grown), human_bytes(most_grown(before, mesh, device))));
  at::Tensor equal = at::ones({1}, at::kLong);
  if (table) equal[0] = table->finish(options, mesh.world.size()) ? 1 : 0;
  equal = equal.to(device);
  mesh.world.broadcast(equal, 0);
  if (!options.save.empty()) {
    const bridge::ConversionReport saved =
        nn::save_hf_pretrained(chunks, mesh, *source, options.save, {}, {.progress = ranks.progress()});
    ranks.say(fmt::format("saved {} to {} in {}", human_bytes(saved.bytes_written), options.save,
                          human_seconds(saved.seconds)));
  }
  return equal.item<int64_t>() == 1 ? kDone : kDifferent;
}

}  // namespace

int run(const RoundtripOptions& options) {
  return run_ranks({options.layout.parallel, options.cpu}, [&](Ranks& ranks) { return roundtrip(options, ranks); });
}

}  // namespace viaduct::cli
