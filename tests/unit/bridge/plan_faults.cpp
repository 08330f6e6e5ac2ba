#include "tests/unit/bridge/plan_faults.h"

#include <algorithm>

#include "viaduct/core/error.h"

namespace viaduct::bridge {

namespace {

const std::string kEmbedding = "embedding.word_embeddings.weight";
const std::string kQkv = "decoder.layers.self_attention.linear_qkv.weight";
const std::string kProj = "decoder.layers.self_attention.linear_proj.weight";
const std::string kFc1 = "decoder.layers.mlp.linear_fc1.weight", kFc2 = "decoder.layers.mlp.linear_fc2.weight";

// The chunks of a tensor, in the order of their places in it.
std::vector<TargetChunk*> chunks_of(TransferPlan& plan, const std::string& tensor) {
  std::vector<TargetChunk*> chunks;
  for (TargetChunk& chunk : plan.targets)
    if (plan.target.tensors[chunk.tensor].name == tensor) chunks.push_back(&chunk);
  const auto place = [&](const TargetChunk* chunk) {
    const Shape& offset = plan.target.tensors[chunk->tensor].chunks[chunk->chunk].offset;
    return std::vector<int64_t>(offset.begin(), offset.end());
  };
  std::sort(chunks.begin(), chunks.end(), [&](auto* a, auto* b) { return place(a) < place(b); });
  VIADUCT_CHECK(chunks.size() >= 4, "{} has {} chunks", tensor, chunks.size());
  return chunks;
}

Transfer& transfer(TransferPlan& plan, const TargetChunk& chunk, uint32_t number = 0) {
  VIADUCT_CHECK(number < chunk.num_transfers, "transfer {} of {}", number, chunk.num_transfers);
  return plan.transfers[chunk.first_transfer + number];
}
Transfer& transfer(TransferPlan& plan, const std::string& tensor, size_t chunk = 0) {
  return transfer(plan, *chunks_of(plan, tensor)[chunk]);
}
// Its region; no other transfer has it.
Region& region(TransferPlan& plan, const std::string& tensor, size_t chunk = 0) {
  return plan.regions[transfer(plan, tensor, chunk).region];
}
SourceChunk& source(TransferPlan& plan, const std::string& tensor, size_t chunk = 0) {
  return plan.sources[static_cast<size_t>(transfer(plan, tensor, chunk).source)];
}

// The last chunk of the vocabulary: 58 rows of the model, then 6 of padding.
struct Padded {
  explicit Padded(TransferPlan& plan)
      : chunk(*chunks_of(plan, kEmbedding).back()),
        rows(plan.regions[transfer(plan, chunk, 0).region]),
        fill(plan.regions[transfer(plan, chunk, 1).region]) {
    VIADUCT_CHECK(chunk.num_transfers == 2 && transfer(plan, chunk, 1).source == layout::kNoTensor &&
                  fill.to.size[0] == 6 && rows.to.size[0] == 58);
  }
  TargetChunk& chunk;
  Region& rows;
  Region& fill;
};

void shift_rows(TransferPlan& plan, int64_t by) {
  for (size_t chunk = 0; chunk < 4; ++chunk) region(plan, kEmbedding, chunk).from.offset[0] += by;
}

void erase_transfer(TransferPlan& plan, TargetChunk& chunk, uint32_t number) {
  const uint32_t at = chunk.first_transfer + number;
  plan.transfers.erase(plan.transfers.begin() + at);
  --chunk.num_transfers;
  for (TargetChunk& other : plan.targets)
    if (other.first_transfer > at) --other.first_transfer;
}

void double_transfer(TransferPlan& plan, TargetChunk& chunk) {
  const uint32_t at = chunk.first_transfer;
  const Transfer copy = plan.transfers[at];
  plan.transfers.insert(plan.transfers.begin() + at, copy);
  ++chunk.num_transfers;
  for (TargetChunk& other : plan.targets)
    if (other.first_transfer > at) ++other.first_transfer;
}

const std::vector<PlanFault> kPaddingFaults = {
    {"one row of padding too few", true,
     [](TransferPlan& plan) {
       Padded last(plan);
       ++last.fill.to.offset[0];
       --last.fill.to.size[0];
     }},
    {"padding ends one row early", true, [](TransferPlan& plan) { --Padded(plan).fill.to.size[0]; }},
    {"one row of padding too many, over the last token", true,
     [](TransferPlan& plan) {
       Padded last(plan);
       --last.fill.to.offset[0];
       ++last.fill.to.size[0];
     }},
    {"padding moved by one row", true, [](TransferPlan& plan) { --Padded(plan).fill.to.offset[0]; }},
    {"no padding", true,
     [](TransferPlan& plan) {
       Padded last(plan);
       erase_transfer(plan, last.chunk, 1);
     }},
    {"the last token taken for padding", false,
     [](TransferPlan& plan) {
       Padded last(plan);
       --last.rows.from.size[0];
       --last.rows.to.size[0];
       --last.fill.to.offset[0];
       ++last.fill.to.size[0];
     }},
    {"padding before the last tokens", false,
     [](TransferPlan& plan) {
       Padded last(plan);
       last.fill.to.offset[0] = 0;
       last.rows.to.offset[0] = 6;
     }},
    {"padding read from the source", true,
     [](TransferPlan& plan) {
       Padded last(plan);
       last.rows.from.size[0] += 6;
       last.rows.to.size[0] += 6;
       erase_transfer(plan, last.chunk, 1);
     }},
    {"chunks of the vocabulary as without padding", false,
     [](TransferPlan& plan) {
       Padded last(plan);
       for (size_t chunk = 1; chunk < 4; ++chunk) --region(plan, kEmbedding, chunk).from.offset[0];
     }},
    {"vocabulary read one row late", true, [](TransferPlan& plan) { shift_rows(plan, 1); }},
    {"vocabulary read one row early", true, [](TransferPlan& plan) { shift_rows(plan, -1); }},
};

const std::vector<PlanFault> kTransferFaults = {
    {"a transfer lands one row late", true, [](TransferPlan& plan) { ++region(plan, kQkv).to.offset[0]; }},
    {"a transfer reads one row late", false, [](TransferPlan& plan) { ++region(plan, kQkv).from.offset[0]; }},
    {"a transfer reads one column late", false, [](TransferPlan& plan) { ++region(plan, kFc2).from.offset[1]; }},
    {"a transfer doubled", true, [](TransferPlan& plan) { double_transfer(plan, *chunks_of(plan, kQkv)[1]); }},
    {"a transfer lost", true, [](TransferPlan& plan) { erase_transfer(plan, *chunks_of(plan, kQkv)[1], 1); }},
    {"a transfer of one row too few", true,
     [](TransferPlan& plan) {
       --region(plan, kQkv).from.size[0];
       --region(plan, kQkv).to.size[0];
     }},
    {"a transfer whose sides differ", true, [](TransferPlan& plan) { --region(plan, kQkv).from.size[0]; }},
    {"every second row", true, [](TransferPlan& plan) { region(plan, kQkv).to.stride[0] = 2; }},
    {"two transfers swapped", false,
     [](TransferPlan& plan) {
       const TargetChunk& chunk = *chunks_of(plan, kQkv)[0];
       std::swap(transfer(plan, chunk, 0).source, transfer(plan, chunk, 1).source);
     }},
    {"two ranks' parts swapped", false,
     [](TransferPlan& plan) {
       const std::vector<TargetChunk*> chunks = chunks_of(plan, kFc2);
       std::swap(chunks[0]->first_transfer, chunks[1]->first_transfer);
     }},
    {"gate and up of a rank swapped", false,
     [](TransferPlan& plan) {
       // By place: gate of the ranks 0 to 3, up of the ranks 0 to 3.
       const std::vector<TargetChunk*> chunks = chunks_of(plan, kFc1);
       std::swap(chunks[1]->first_transfer, chunks[5]->first_transfer);
     }},
    {"a square part transposed", false,
     [](TransferPlan& plan) {
       Region& wrong = region(plan, kProj);
       std::swap(wrong.from.size[0], wrong.from.size[1]);
       std::swap(wrong.from.offset[0], wrong.from.offset[1]);
       std::swap(wrong.axes[0], wrong.axes[1]);
     }},
};

const std::vector<PlanFault> kPlaceFaults = {
    {"a source one element late", false, [](TransferPlan& plan) { source(plan, kQkv).byte_offset += 2; }},
    {"a source one element early", false, [](TransferPlan& plan) { source(plan, kFc2).byte_offset -= 2; }},
    {"a source by one byte", false, [](TransferPlan& plan) { ++source(plan, kFc2).byte_offset; }},
    {"the last source of a file one element late", true,
     [](TransferPlan& plan) {
       std::max_element(plan.sources.begin(), plan.sources.end(), [](const SourceChunk& a, const SourceChunk& b) {
         return std::pair(a.file, a.byte_offset) < std::pair(b.file, b.byte_offset);
       })->byte_offset += 2;
     }},
    {"a source in no file", true, [](TransferPlan& plan) { source(plan, kFc2).file = 1000; }},
    {"a source taken for float16", false, [](TransferPlan& plan) { source(plan, kFc2).dtype = DType::kF16; }},
    {"a source taken for float32", true,
     [](TransferPlan& plan) {
       for (SourceChunk& chunk : plan.sources) chunk.dtype = DType::kF32;
     }},
    {"a source read by columns", false,
     [](TransferPlan& plan) {
       SourceChunk& wrong = source(plan, kFc2);
       wrong.strides = {1, wrong.size[0]};
     }},
    {"a transfer from a source that is not there", true,
     [](TransferPlan& plan) { transfer(plan, kFc2).source = 100000; }},
    {"a target in a file that is not there", true,
     [](TransferPlan& plan) { chunks_of(plan, kFc2)[0]->file = 1000; }},
    {"a source with one row less", true, [](TransferPlan& plan) { --source(plan, kFc2).size[0]; }},
    {"a target one element late", true, [](TransferPlan& plan) { chunks_of(plan, kFc2)[0]->byte_offset += 2; }},
    {"a target one element early", true, [](TransferPlan& plan) { chunks_of(plan, kFc2)[0]->byte_offset -= 2; }},
    {"two targets in each other's place", false,
     [](TransferPlan& plan) {
       const std::vector<TargetChunk*> chunks = chunks_of(plan, kFc2);
       std::swap(chunks[0]->byte_offset, chunks[1]->byte_offset);
     }},
    {"the layers of a tensor in each other's place", false,
     [](TransferPlan& plan) {
       const std::vector<TargetChunk*> chunks = chunks_of(plan, kQkv);
       for (size_t i = 0; i < 4; ++i) std::swap(chunks[i]->byte_offset, chunks[4 + i]->byte_offset);
     }},
    {"a target cast to float16", false, [](TransferPlan& plan) { chunks_of(plan, kFc2)[0]->dtype = DType::kF16; }},
    {"a target of float32", true, [](TransferPlan& plan) { chunks_of(plan, kFc2)[0]->dtype = DType::kF32; }},
    {"a target file one byte short", true, [](TransferPlan& plan) { --plan.target.files[0].size; }},
};

}  // namespace

TransferPlan with_own_regions(TransferPlan plan) {
  std::vector<Region> regions;
  for (Transfer& each : plan.transfers) {
    regions.push_back(plan.region_of(each));
    each.region = static_cast<uint32_t>(regions.size() - 1);
  }
  plan.regions = std::move(regions);
  return plan;
}

const std::vector<PlanFault>& plan_faults() {
  static const std::vector<PlanFault> all = [] {
    std::vector<PlanFault> result;
    for (const auto* part : {&kPaddingFaults, &kTransferFaults, &kPlaceFaults})
      result.insert(result.end(), part->begin(), part->end());
    return result;
  }();
  return all;
}

}  // namespace viaduct::bridge
