#include "viaduct/bridge/verify.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "viaduct/bridge/plan_builder.h"
#include "viaduct/core/convert.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {

namespace {

TransferPlan plan_of(const View& view, const std::vector<size_t>& chosen, const std::vector<DType>& dtypes) {
  PlanBuilder builder(*view.stored);
  for (size_t i = 0; i < chosen.size(); ++i) {
    const ViewTensor& tensor = view.tensors[chosen[i]];
    add_to_plan(view, tensor, dtypes[i], static_cast<uint32_t>(i), builder);
  }
  return builder.finish_virtual();
}

// Block `block` of one tensor's row-major bytes.
std::vector<std::byte> block_bytes(const View& view, size_t tensor, DType dtype, uint64_t block) {
  const TransferPlan plan = plan_of(view, {tensor}, {dtype});
  const uint64_t begin = block * kBlockBytes;
  const uint64_t end = std::min(begin + kBlockBytes, plan.targets[0].num_bytes());
  std::vector<std::byte> bytes(end - begin);
  std::mutex mutex;
  const auto keep = [&](uint32_t, uint64_t offset, std::span<const std::byte> run) {
    const uint64_t from = std::max(offset, begin), to = std::min(offset + run.size(), end);
    if (from >= to) return;
    const std::lock_guard lock(mutex);
    std::memcpy(bytes.data() + (from - begin), run.data() + (from - offset), to - from);
  };
  const auto source = open_source(plan);
  execute(plan, *source, *callback_sink(keep), {});
  return bytes;
}

std::string element_text(DType dtype, const std::byte* element) {
  std::string bits;
  for (int i = element_size(dtype) - 1; i >= 0; --i) bits += fmt::format("{:02x}", static_cast<int>(element[i]));
  if (!can_convert(dtype, DType::kF32) && dtype != DType::kF32) return "0x" + bits;
  float value = 0;
  convert(dtype, element, DType::kF32, reinterpret_cast<std::byte*>(&value), 1);
  return fmt::format("{} (0x{})", value, bits);
}

// "element [0, 5]: 1.5 (0x3fc0) against 2 (0x4000)"
std::string first_difference(const View& a, size_t in_a, const View& b, size_t in_b, DType dtype, uint64_t block) {
  const std::vector<std::byte> left = block_bytes(a, in_a, dtype, block);
  const std::vector<std::byte> right = block_bytes(b, in_b, dtype, block);
  const auto at =
      static_cast<uint64_t>(std::mismatch(left.begin(), left.end(), right.begin()).first - left.begin());
  if (at == left.size())
    return fmt::format("block {} was read differently the second time: a file is changing", block);
  const uint64_t byte = block * kBlockBytes + at;
  if (!is_byte_sized(dtype)) return fmt::format("byte {}", byte);
  const auto size = static_cast<uint64_t>(element_size(dtype));
  int64_t element = static_cast<int64_t>(byte / size);
  Shape index = row_major_strides(a.tensors[in_a].shape);
  for (int64_t& stride : index) {
    const int64_t quotient = element / stride;
    element -= quotient * stride;
    stride = quotient;
  }
  const uint64_t start = at / size * size;
  return fmt::format("element {}: {} against {}", index, element_text(dtype, left.data() + start),
                     element_text(dtype, right.data() + start));
}

}  // namespace

Comparison compare(const View& a, const View& b, const ExecuteOptions& options, size_t limit) {
  Comparison result;
  const auto differ = [&](const std::string& tensor, std::string what) {
    if (result.differences.size() < limit) result.differences.push_back({tensor, std::move(what)});
  };
  std::unordered_map<std::string_view, size_t> in_b;
  for (size_t i = 0; i < b.tensors.size(); ++i) in_b.emplace(b.tensors[i].name, i);
  std::vector<size_t> left, right;
  std::vector<DType> dtypes;
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    const ViewTensor& tensor = a.tensors[i];
    const auto it = in_b.find(tensor.name);
    if (it == in_b.end()) {
      differ(tensor.name, "only in A");
      continue;
    }
    const ViewTensor& other = b.tensors[it->second];
    if (tensor.shape != other.shape) {
      differ(tensor.name, fmt::format("shape {} against {}", tensor.shape, other.shape));
    } else if (tensor.dtype != other.dtype) {
      differ(tensor.name, fmt::format("{} against {}", tensor.dtype, other.dtype));
    } else {
      left.push_back(i);
      right.push_back(it->second);
      dtypes.push_back(tensor.dtype);
    }
    in_b.erase(it);
  }
  for (const ViewTensor& tensor : b.tensors)
    if (in_b.contains(tensor.name)) differ(tensor.name, "only in B");
  result.tensors = left.size();

  const TransferPlan plan_a = plan_of(a, left, dtypes), plan_b = plan_of(b, right, dtypes);
  ExecuteOptions hashing = options;
  hashing.crc = false;
  hashing.journal = nullptr;
  result.bytes = plan_a.bytes_of_data();
  if (options.progress) options.progress->begin("comparing", 2 * result.bytes);
  const auto sums = [&](const TransferPlan& plan) {
    const auto source = open_source(plan);
    return execute(plan, *source, *discard_sink(), hashing).sums;
  };
  const auto sums_a = sums(plan_a), sums_b = sums(plan_b);
  if (options.progress) options.progress->end();
  for (size_t i = 0; i < left.size(); ++i) {
    for (size_t block = 0; block < sums_a[i].size(); ++block) {
      if (sums_a[i][block].xxh3 == sums_b[i][block].xxh3) continue;
      if (result.differences.size() < limit)
        differ(a.tensors[left[i]].name, first_difference(a, left[i], b, right[i], dtypes[i], block));
      break;
    }
  }
  return result;
}

void check_ties(const Checkpoint& checkpoint, const ExecuteOptions& options) {
  if (checkpoint.ties().empty()) return;
  View copies{&checkpoint.stored(), {}}, originals{&checkpoint.stored(), {}};
  for (const Tie& tie : checkpoint.ties()) {
    for (const auto& [view, id] : {std::pair(&copies, tie.copy), std::pair(&originals, tie.original)}) {
      const PlainTensor& tensor = checkpoint.stored().tensors[static_cast<size_t>(id)];
      const PlainTensor& name = checkpoint.stored().tensors[static_cast<size_t>(tie.copy)];
      view->tensors.push_back({name.name, tensor.dtype, tensor.shape, {whole_piece(id, tensor.shape)}});
    }
  }
  ExecuteOptions quiet = options;
  quiet.progress = nullptr;
  const Comparison comparison = compare(copies, originals, quiet, 1);
  if (comparison.equal()) return;
  const auto name_of = [&](int32_t id) { return checkpoint.stored().tensors[static_cast<size_t>(id)].name; };
  const std::string& copy = comparison.differences[0].tensor;
  const auto tie = std::find_if(checkpoint.ties().begin(), checkpoint.ties().end(),
                                [&](const Tie& each) { return name_of(each.copy) == copy; });
  const bool configured = checkpoint.arch().embedding.tied || checkpoint.arch().embedding.output_is_copy;
  throw UserError(fmt::format(
      "{}: {} and {} must be equal, since {}, but {}{}", checkpoint.path().string(), copy, name_of(tie->original),
      configured ? "the configuration ties them (tie_word_embeddings)" : "Megatron's model has one weight for both",
      comparison.differences[0].what,
      configured ? ". Set \"tie_word_embeddings\": false in config.json if the output layer has weights of its own"
                 : ""));
}

}  // namespace viaduct::bridge
