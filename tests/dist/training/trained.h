// Losses and gradients of a toy model in a layout, by the training loop's own forward and backward.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "viaduct/training/forward_backward.h"

namespace viaduct::test {

/// A layout of the processes of this test.
struct Layout {
  topology::Parallelism sizes;
  bool sequence_parallel = false;
};
std::string name_of(const Layout& layout);

/// Micro-batches of one data-parallel rank.
using Batches = std::vector<training::MicroBatch>;

/// What came of one forward and backward pass over them.
struct Trained {
  std::map<std::string, double> losses;
  std::vector<std::shared_ptr<nn::GptModel>> chunks;  // with gradients, finalised
};

/// The family's toy with six layers, in a layout, with what `change` makes of its configuration; the loss is that
/// of each token (calculate_per_token_loss).
Trained train(const std::string& family, const Layout& layout, std::shared_ptr<const parallel::Mesh> mesh,
              Batches batches, const std::function<void(config::ModelConfig&)>& change = {});

/// Each of this rank's gradients is that of `one`, which is one process's.
void expect_gradients(const Trained& found, const Layout& layout, const Trained& one, double bound,
                      const std::string& where);

/// Packs of this test: rows of sequences, two rows a micro-batch, and micro-batches of unequal length. The same on
/// every rank; `packed` or each sequence a micro-batch of its own.
Batches packs(int64_t vocabulary, bool packed);
/// Every dp-th of them.
Batches of_rank(const Batches& all, const parallel::Mesh& mesh);

}  // namespace viaduct::test
