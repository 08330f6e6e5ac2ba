#include "viaduct/nn/packed_attention.h"

#include <ATen/ATen.h>

#include "viaduct/core/error.h"

namespace viaduct::nn {

namespace {

// The lengths of a row's sequences.
std::vector<int64_t> lengths_of(const std::vector<int64_t>& cu_seqlens, int64_t positions) {
  VIADUCT_CHECK(!cu_seqlens.empty() && cu_seqlens.front() == 0 && cu_seqlens.back() == positions,
                "sequences that are not those of a row of {} positions", positions);
  std::vector<int64_t> lengths;
  for (size_t i = 1; i < cu_seqlens.size(); ++i) {
    lengths.push_back(cu_seqlens[i] - cu_seqlens[i - 1]);
    VIADUCT_CHECK(lengths.back() >= 0, "a sequence from {} to {}", cu_seqlens[i - 1], cu_seqlens[i]);
  }
  return lengths;
}

at::Tensor joined(std::vector<at::Tensor> parts, int64_t dim) {
  return parts.size() == 1 ? std::move(parts.front()) : at::cat(parts, dim);
}

}  // namespace

at::Tensor packed_attention(const AttentionCall& call,
                            const std::function<at::Tensor(const AttentionCall& sequence)>& attention) {
  const std::vector<std::vector<int64_t>>& rows = call.mask.packed->cu_seqlens;
  const int64_t positions = call.query_sbnd.size(0), batch = call.query_sbnd.size(1);
  VIADUCT_CHECK_EQ(call.key_kbgd.size(0), positions, "keys of packed rows");
  VIADUCT_CHECK_EQ(static_cast<int64_t>(rows.size()), batch, "packed rows");
  // Split at once, not cut out one by one: the gradient then is one tensor, not one of the row's size a sequence.
  const auto query = call.query_sbnd.split(1, 1), key = call.key_kbgd.split(1, 1),
             value = call.value_kbgv.split(1, 1);
  std::vector<at::Tensor> results;
  for (size_t row = 0; row < rows.size(); ++row) {
    const std::vector<int64_t> lengths = lengths_of(rows[row], positions);
    const auto queries = query[row].split_with_sizes(lengths, 0), keys = key[row].split_with_sizes(lengths, 0),
               values = value[row].split_with_sizes(lengths, 0);
    std::vector<at::Tensor> parts;
    for (size_t i = 0; i < lengths.size(); ++i) {
      if (lengths[i] == 0) continue;
      AttentionCall one = call;
      one.query_sbnd = queries[i];
      one.key_kbgd = keys[i];
      one.value_kbgv = values[i];
      one.mask.packed = nullptr;
      if (call.mask.key_valid.defined())
        one.mask.key_valid =
            call.mask.key_valid.narrow(0, static_cast<int64_t>(row), 1).narrow(1, rows[row][i], lengths[i]);
      parts.push_back(attention(one));
    }
    results.push_back(joined(std::move(parts), 0));
  }
  return joined(std::move(results), 1);
}

}  // namespace viaduct::nn
