// ParameterBuffer: parameters of one kind with their main gradients side by side in memory, so that the ranks that
// hold copies of them exchange a few large tensors instead of many small ones.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "viaduct/parallel/group.h"

namespace viaduct::optim {

/// How the buffer is laid out and reduced.
struct BufferOptions {
  c10::ScalarType gradients = at::kFloat;  // the element type of main gradients
  /// Elements of a bucket, what is reduced at once; the last parameter that begins in it ends it. 0: one bucket.
  int64_t bucket_size = 40'000'000;
  /// Does each rank update a part of every bucket only (upstream's distributed optimizer)?
  bool sharded = false;
  /// Parameters that have a bucket of their own: of a copy in another buffer a rank then owns the same part.
  std::vector<bool> own_bucket;
};

/// What this rank updates of one parameter: `size` elements from `begin` on of the parameter's elements in order.
struct OwnedRange {
  size_t parameter;  // of the buffer
  int64_t begin;     // in the parameter
  int64_t size;
  int64_t offset;  // in the buffer
};

/// Takes the gradients that autograd makes as soon as they are there, adds them up in the main gradients and lets
/// go of them. Parameters of a sharded buffer move into the buffer, so that ranks can gather what others have
/// updated.
///
/// Layout (upstream's): parameters in the opposite order of the model's, so that the buckets whose gradients come
/// first are first; of a sharded buffer every parameter begins at a multiple of 64 elements, and a bucket's size is
/// a multiple of 128 and of the number of ranks.
class ParameterBuffer {
 public:
  /// `parameters`: leaves of one type and device, in the model's order; `replicas`: the ranks that hold copies of
  /// them.
  ParameterBuffer(std::vector<at::Tensor> parameters, const parallel::Group& replicas,
                  const BufferOptions& options);
  ~ParameterBuffer();
  ParameterBuffer(const ParameterBuffer&) = delete;
  ParameterBuffer& operator=(const ParameterBuffer&) = delete;

  /// What it was made of.
  size_t num_parameters() const { return parameters_.size(); }
  const at::Tensor& parameter(size_t i) const { return parameters_[i]; }
  const parallel::Group& replicas() const { return replicas_; }
  bool sharded() const { return options_.sharded; }

  /// The main gradient of a parameter, in its shape: a view of the buffer.
  const at::Tensor& gradient(size_t i) const { return gradients_[i]; }
  /// All main gradients, one dimension.
  const at::Tensor& gradients() const { return all_gradients_; }

  /// What is exchanged at once: whole parameters, one after the other in the buffer.
  size_t num_buckets() const { return buckets_.size(); }
  /// Which of them a parameter is in.
  size_t bucket_of(size_t parameter) const { return bucket_of_[parameter]; }
  /// Of the parameters in a bucket the first of the model: its gradient comes last.
  size_t first_parameter(size_t bucket) const;

  /// The main gradients begin anew: each is what comes from now on, until its bucket is reduced, and `passes` times
  /// is expected to. `complete` is called, by backward, when all of a bucket's parameters have theirs.
  void expect_gradients(int64_t passes, std::function<void()> complete);
  /// Has every parameter of a bucket the gradients that were expected?
  bool complete(size_t bucket) const { return buckets_[bucket].missing == 0; }
  /// Begins to make a bucket's gradients the sums of all ranks' gradients over `divisor`. UserError, from backward,
  /// when another one comes after this. Collective: every rank starts the same buckets in the same order.
  void start_reduction(size_t bucket, double divisor);
  /// Ends it. Of a sharded buffer only what this rank owns is defined then.
  void finish_reduction(size_t bucket);

  /// What this rank updates, in the order of the buffer. All of it, unless the buffer is sharded.
  const std::vector<OwnedRange>& owned() const { return owned_; }
  /// A range of the main gradients, and of the parameters: views of one dimension.
  at::Tensor gradient_of(const OwnedRange& range) const;
  /// As gradient_of.
  at::Tensor parameter_of(const OwnedRange& range) const;
  /// Is there anything to gather?
  bool gathers() const { return options_.sharded && !replicas_.alone(); }
  /// Begins to bring every rank's part of a bucket's parameters to all. Collective, as start_reduction.
  void start_gather(size_t bucket);
  /// Ends it, if it was begun: returns when the parameters are there. Was it?
  bool finish_gather(size_t bucket);

 private:
  class Hook;
  struct Bucket {
    int64_t begin;
    int64_t size;
    int64_t missing = 0;   // parameters without their gradients
    bool reduced = false;  // the reduction was started
    std::unique_ptr<parallel::Transfer> transfer = nullptr;
  };
  void lay_out();
  void find_owned();
  void take(size_t parameter, const at::Tensor& gradient);
  // What this rank owns of a bucket of `all`.
  at::Tensor own_part(const at::Tensor& all, const Bucket& bucket) const;

  std::vector<at::Tensor> parameters_;
  parallel::Group replicas_;
  BufferOptions options_;
  std::vector<int64_t> offsets_;  // of parameters
  std::vector<Bucket> buckets_;
  std::vector<size_t> bucket_of_;  // of parameters
  int64_t passes_ = 0;
  std::vector<int64_t> arrived_;  // gradients of parameters
  std::function<void()> complete_;
  std::vector<OwnedRange> owned_;
  at::Tensor all_parameters_;  // of a sharded buffer
  at::Tensor all_gradients_;
  std::vector<at::Tensor> gradients_;
};

}  // namespace viaduct::optim
