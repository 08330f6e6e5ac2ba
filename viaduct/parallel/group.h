// Group: ranks that compute one thing together, and what they can send each other. Outside of autograd; mappings.h
// has the differentiable forms.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace viaduct::parallel {

/// How elements of several ranks become one.
enum class Reduce { kSum, kMax, kMin, kAverage };

/// Tensors on their way: one that is sent must not change, and one that comes is not to be read, before wait() or
/// done() said that it is over.
class Transfer {
 public:
  virtual ~Transfer() = default;
  /// Is it over? Gloo knows only once wait() returned.
  virtual bool done() = 0;
  /// Returns when it is over: on CUDA, the work that the current stream is given from now on comes after it. A
  /// collective must be waited for: where the backend has no such sum, this makes it.
  virtual void wait() = 0;
};

/// What carries tensors between the ranks of a group. Every rank calls the same functions in the same order. Errors
/// name the group, the operation and, where it is known, the rank that is gone.
class Communicator {
 public:
  virtual ~Communicator() = default;
  /// In place. This and the next two return at once.
  virtual std::unique_ptr<Transfer> start_all_reduce(const at::Tensor& tensor, Reduce reduce) = 0;
  /// `tensor` [n, ...] of every rank, one after the other in `result` [n * size, ...]. Both contiguous; `tensor`
  /// may be its place in `result`.
  virtual std::unique_ptr<Transfer> start_all_gather(const at::Tensor& result, const at::Tensor& tensor) = 0;
  /// The sum of every rank's `tensor` [n * size, ...]; rank i keeps its i-th n rows in `result` [n, ...], which may
  /// be their place in `tensor`: the others' rows are undefined then.
  virtual std::unique_ptr<Transfer> start_reduce_scatter(const at::Tensor& result, const at::Tensor& tensor) = 0;
  /// input_rows[i] rows of `tensor` go to rank i; output_rows[i] rows of `result` come from it. Both contiguous.
  virtual void all_to_all(at::Tensor& result, const at::Tensor& tensor, const std::vector<int64_t>& output_rows,
                          const std::vector<int64_t>& input_rows) = 0;
  /// `tensor` of rank `root` (of the group) to all, in place.
  virtual void broadcast(at::Tensor& tensor, int root) = 0;
  /// To and from a rank of the group; `tag` tells several tensors on the way apart. Tensors with the same tag
  /// arrive in the order in which they were sent. start_send returns at once; the receiver may come later.
  virtual void send(const at::Tensor& tensor, int to, int tag) = 0;
  /// As send, but returns at once.
  virtual std::unique_ptr<Transfer> start_send(const at::Tensor& tensor, int to, int tag) = 0;
  /// Returns when the tensor is there.
  virtual void receive(at::Tensor& tensor, int from, int tag) = 0;
  /// Makes the line from one rank to another ready: both call it, for several lines in the same order. Without it
  /// the first tensor of a line does so and, with NCCL, waits for the other rank.
  virtual void connect(int from, int to, int tag) = 0;
  /// Returns when every rank is here.
  virtual void barrier() = 0;
};

/// A group of ranks. Copies are cheap and share the communicator.
class Group {
 public:
  /// A process alone: every operation is the identity.
  Group();
  /// `ranks` are global and ascending, `rank` is this process' index among them. A group of one needs no
  /// communicator.
  Group(std::string name, std::vector<int> ranks, int rank, std::shared_ptr<Communicator> communicator);

  /// What the group is for: "tensor parallel".
  const std::string& name() const { return state_->name; }
  /// Number of ranks.
  int size() const { return static_cast<int>(state_->ranks.size()); }
  /// Which of them this process is.
  int rank() const { return state_->rank; }
  /// The global rank of member `i`.
  int global_rank(int i) const { return state_->ranks.at(static_cast<size_t>(i)); }
  /// The global ranks of all members, ascending.
  const std::vector<int>& global_ranks() const { return state_->ranks; }
  /// Is this process alone?
  bool alone() const { return state_->ranks.size() == 1; }

  /// The reduced tensor of all ranks, in place.
  void all_reduce(at::Tensor& tensor, Reduce reduce = Reduce::kSum) const;
  /// All ranks' tensors, equal in shape, one after the other along `dim`.
  at::Tensor all_gather(const at::Tensor& tensor, int64_t dim) const;
  /// This rank's part along `dim` of the sum of all ranks' tensors; `size()` divides that axis.
  at::Tensor reduce_scatter(const at::Tensor& tensor, int64_t dim) const;
  /// The same three on contiguous tensors along axis 0, see Communicator; they return at once. Not of a group that
  /// is alone.
  std::unique_ptr<Transfer> start_all_reduce(const at::Tensor& tensor, Reduce reduce = Reduce::kSum) const;
  /// As start_all_reduce.
  std::unique_ptr<Transfer> start_all_gather(const at::Tensor& result, const at::Tensor& tensor) const;
  /// As start_all_reduce.
  std::unique_ptr<Transfer> start_reduce_scatter(const at::Tensor& result, const at::Tensor& tensor) const;
  /// Rows (of axis 0) to and from each rank; see Communicator.
  at::Tensor all_to_all(const at::Tensor& tensor, const std::vector<int64_t>& output_rows,
                        const std::vector<int64_t>& input_rows) const;
  /// Member `root`'s tensor to all, in place.
  void broadcast(at::Tensor& tensor, int root) const;
  /// To and from another member; see Communicator. send returns when the tensor has left, which may be only when
  /// the other calls receive: two members that both send first wait for ever, start_send does not.
  void send(const at::Tensor& tensor, int to, int tag = 0) const;
  /// As send, but returns at once.
  std::unique_ptr<Transfer> start_send(const at::Tensor& tensor, int to, int tag = 0) const;
  /// Returns when the tensor is there.
  void receive(at::Tensor& tensor, int from, int tag = 0) const;
  /// Makes the line between two members ready, see Communicator; nothing for those who are neither.
  void connect(int from, int to, int tag = 0) const;
  /// Returns when every member is here.
  void barrier() const;

 private:
  struct State {
    std::string name;
    std::vector<int> ranks;
    int rank;
    std::shared_ptr<Communicator> communicator;
  };
  Communicator& communicator() const;
  int peer(int member) const;

  std::shared_ptr<const State> state_;
};

}  // namespace viaduct::parallel
