// Faults planted in the plan of a real import: each must be caught, by the proof that runs before the first byte
// moves, or by the bytes that the plan makes, held against the reference checkpoint.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <set>

#include "tests/unit/bridge/golden_model.h"
#include "tests/unit/bridge/plan_faults.h"
#include "viaduct/bridge/conversion.h"
#include "viaduct/layout/copy.h"

namespace viaduct::bridge {
namespace {

std::vector<std::byte> bytes_of(const Path& file) {
  const std::string text = read_text_file(file);
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  return {begin, begin + text.size()};
}

// The target's files as the executor makes them, in memory.
std::vector<std::vector<std::byte>> carry_out(const TransferPlan& plan) {
  std::vector<std::vector<std::byte>> sources, targets;
  for (const Path& file : plan.source_files) sources.push_back(bytes_of(file));
  for (const formats::TargetFile& file : plan.target.files) targets.emplace_back(file.size, std::byte{0xA5});
  const auto source = memory_source({sources.begin(), sources.end()});
  const auto sink = memory_sink({targets.begin(), targets.end()});
  execute(plan, *source, *sink, {.threads = 1});
  return targets;
}

// A tensor put together from the places that the checkpoint's index names.
std::vector<std::byte> tensor_in(const std::vector<std::vector<std::byte>>& files,
                                 const formats::StoredTensor& tensor) {
  const int element = element_size(tensor.dtype);
  std::vector<std::byte> bytes(static_cast<size_t>(num_elements(tensor.shape) * element));
  layout::Pieces pieces;
  std::vector<layout::SourceBuffer> sources;
  for (const formats::StoredChunk& chunk : tensor.chunks) {
    const auto size = static_cast<size_t>(num_elements(chunk.size) * element);
    layout::Piece piece;
    piece.source = static_cast<int32_t>(sources.size());
    piece.target = 0;
    piece.from = layout::Box::whole(chunk.size);
    piece.to = layout::Box::dense(chunk.offset, chunk.size);
    piece.axes = layout::AxisMap::identity(chunk.size.rank());
    pieces.push_back(piece);
    sources.push_back({chunk.size, std::span(files.at(chunk.file)).subspan(chunk.byte_offset, size)});
  }
  const layout::TargetBuffer target{tensor.shape, bytes};
  layout::execute_in_memory(pieces, sources, {&target, 1}, element);
  return bytes;
}

// What differs from the reference checkpoint; its tensors have no padding, the plan's have zeros there.
std::optional<std::string> compare_with_reference(const TransferPlan& plan, const GoldenModel& model) {
  const std::vector<std::vector<std::byte>> files = carry_out(plan);
  if (plan.target.tensors.size() != model.stored.size()) return "another number of tensors";
  for (const formats::StoredTensor& tensor : plan.target.tensors) {
    const GoldenModel::Tensor& reference = model.stored.at(tensor.name);
    if (tensor.dtype != reference.dtype) return tensor.name + " has another type";
    const std::vector<std::byte> found = tensor_in(files, tensor);
    std::vector<std::byte> expected = reference.bytes;
    expected.resize(found.size());
    if (found == expected) continue;
    const auto at = std::mismatch(found.begin(), found.end(), expected.begin()).first - found.begin();
    return fmt::format("{} differs from byte {}", tensor.name, at);
  }
  return std::nullopt;
}

class PlantedPlanFaults : public testing::Test {
 protected:
  const GoldenModel model_ = read_golden_model("llama2");
  const std::unique_ptr<Checkpoint> source_ = open_checkpoint(model_.hf_folder);
  const TransferPlan plan_ = with_own_regions(plan_import(*source_, "nowhere", {.parallel = {.tp = 4}}).plan);
};

TEST_F(PlantedPlanFaults, ThePlanItselfPasses) {
  const Proof proof = prove(plan_, source_sizes(plan_));
  EXPECT_TRUE(proof.holds()) << proof.problems.at(0);
  const std::optional<std::string> difference = compare_with_reference(plan_, model_);
  EXPECT_FALSE(difference) << *difference;
}

TEST_F(PlantedPlanFaults, EachIsCaught) {
  std::set<std::string> names;
  int by_proof = 0, by_bytes = 0;
  for (const PlanFault& fault : plan_faults()) {
    EXPECT_TRUE(names.insert(fault.name).second) << fault.name << " is planted twice";
    TransferPlan plan = plan_;
    fault.plant(plan);
    EXPECT_NE(plan.hash(), plan_.hash()) << fault.name;
    const Proof proof = prove(plan, source_sizes(plan));
    EXPECT_EQ(!proof.holds(), fault.proof_must_see_it)
        << fault.name << ": " << (proof.holds() ? "the proof holds" : proof.problems[0]);
    if (!proof.holds()) {
      ++by_proof;
    } else {
      EXPECT_TRUE(compare_with_reference(plan, model_)) << fault.name << " is not caught";
      ++by_bytes;
    }
  }
  EXPECT_GE(names.size(), 20u);
  EXPECT_GE(by_proof, 10);
  EXPECT_GE(by_bytes, 10);
}

}  // namespace
}  // namespace viaduct::bridge
