#include "viaduct/adapters/adapter.h"

#include <algorithm>
#include <cstring>

#include "viaduct/adapters/adapter_files.h"
#include "viaduct/bridge/copy_move.h"
#include "viaduct/bridge/plan_builder.h"
#include "viaduct/core/error.h"

namespace viaduct::adapters {

using bridge::TransferPlan;
using layout::Piece;
using layout::Pieces;

double Adapter::scaling(const AdapterUpdate& update) const { return spec_.scaling(update.module, update.rank); }

void Adapter::set_graph(AdapterGraph graph) {
  graph_ = std::move(graph.graph);
  copies_ = std::move(graph.copies);
  updates_ = std::move(graph.updates);
}

std::vector<float> Adapter::read_numbers(const Pieces& pieces, const Shape& shape) const {
  Pieces stored;  // pieces of stored tensors that make the adapter tensors which `pieces` name
  std::vector<int32_t> seen;
  for (const Piece& piece : pieces) {
    if (std::find(seen.begin(), seen.end(), piece.source) != seen.end()) continue;
    seen.push_back(piece.source);
    for (Piece part : hf_pieces(static_cast<size_t>(piece.source))) {
      part.target = piece.source;
      stored.push_back(std::move(part));
    }
  }
  bridge::PlanBuilder builder(stored_);
  builder.add(Shape::filled(shape.rank(), 0), shape, DType::kF32, layout::compose(stored, pieces), 0, 0);
  const TransferPlan plan = builder.finish_virtual();
  std::vector<float> numbers(static_cast<size_t>(num_elements(shape)));
  bridge::CopyScratch scratch;
  for (const bridge::Transfer& transfer : plan.transfers) {
    const bridge::Move move = bridge::compile(plan, transfer, plan.targets[0]);
    struct Range {
      uint32_t file;
      uint64_t begin, end;
    };
    std::vector<Range> ranges;
    bridge::source_ranges(move, [&](uint32_t file, uint64_t begin, uint64_t end) {
      ranges.push_back({file, begin, end});
    });
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return std::tie(a.file, a.begin) < std::tie(b.file, b.begin); });
    std::vector<Range> joined;
    for (const Range& range : ranges) {
      if (!joined.empty() && joined.back().file == range.file && range.begin <= joined.back().end) {
        joined.back().end = std::max(joined.back().end, range.end);
      } else {
        joined.push_back(range);
      }
    }
    std::vector<std::vector<std::byte>> bytes;
    bridge::SourceView view;
    for (const Range& range : joined) {
      std::vector<std::byte>& buffer = bytes.emplace_back(range.end - range.begin);
      File::open(plan.source_files[range.file], File::Mode::kRead).read(range.begin, buffer);
      view.add({range.file, range.begin, range.end, buffer.data()});
    }
    bridge::copy_move(move, view, scratch, reinterpret_cast<std::byte*>(numbers.data()));
  }
  return numbers;
}

Adapter::Matrices Adapter::read(const AdapterUpdate& update) const {
  Matrices matrices;
  matrices.a = read_numbers(update.a, {update.rank, update.in});
  matrices.b = read_numbers(update.b, {update.out, update.rank});
  if (!update.magnitude.empty()) matrices.magnitude = read_numbers(update.magnitude, {update.out});
  return matrices;
}

std::unique_ptr<Adapter> open_adapter(const Path& path, const bridge::Checkpoint& base,
                                      const AdapterOptions& options) {
  if (is_peft_folder(path)) return open_peft_folder(path, base, options);
  VIADUCT_USER_CHECK(std::filesystem::exists(path), "{} does not exist", path.string());
  VIADUCT_USER_CHECK(bridge::is_megatron_checkpoint(path),
                     "{} is no adapter: it has neither adapter_config.json (PEFT) nor a Megatron checkpoint in it",
                     path.string());
  return open_megatron_adapter_of(path, base, options.iteration);
}

}  // namespace viaduct::adapters
