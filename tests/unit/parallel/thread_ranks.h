// The ranks of a parallel layout as threads of this process, for tests: a Communicator between threads, and the
// mesh of every rank.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "viaduct/core/error.h"
#include "viaduct/parallel/mesh.h"

namespace viaduct::parallel {

/// A rank has ended with an error of its own, so that another waits in vain.
class RankGone : public UserError {
 public:
  using UserError::UserError;
};

/// What the ranks of one group share.
class ThreadGroup {
 public:
  explicit ThreadGroup(int size)
      : size_(size), tensors_(static_cast<size_t>(size)), rows_(static_cast<size_t>(size)) {}

  int size() const { return size_; }
  /// Rank `rank` shows a tensor to the others; `look` runs when all have, and no one goes on before all have
  /// looked.
  template <class Look>
  void meet(int rank, const at::Tensor& tensor, const std::vector<int64_t>& rows, Look&& look) {
    tensors_[static_cast<size_t>(rank)] = tensor;
    rows_[static_cast<size_t>(rank)] = rows;
    wait();
    look(tensors_, rows_);
    wait();
  }
  /// Returns when every rank is here; throws when one will not come.
  void wait() {
    std::unique_lock lock(mutex_);
    const int64_t turn = turn_;
    if (++here_ == size_) {
      here_ = 0;
      ++turn_;
      changed_.notify_all();
      return;
    }
    changed_.wait(lock, [&] { return turn_ != turn || gone_; });
    if (turn_ == turn) throw RankGone("a rank is gone");
  }
  void put(int from, int to, int tag, const at::Tensor& tensor) {
    const std::lock_guard lock(mutex_);
    letters_[{from, to, tag}].push_back(tensor.clone());
    changed_.notify_all();
  }
  at::Tensor take(int from, int to, int tag) {
    std::unique_lock lock(mutex_);
    auto& box = letters_[{from, to, tag}];
    changed_.wait(lock, [&] { return !box.empty() || gone_; });
    if (box.empty()) throw RankGone("a rank is gone");
    at::Tensor tensor = box.front();
    box.erase(box.begin());
    return tensor;
  }
  /// A rank has ended with an error.
  void leave() {
    const std::lock_guard lock(mutex_);
    gone_ = true;
    changed_.notify_all();
  }

 private:
  const int size_;
  std::vector<at::Tensor> tensors_;
  std::vector<std::vector<int64_t>> rows_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int here_ = 0;
  int64_t turn_ = 0;
  bool gone_ = false;
  std::map<std::tuple<int, int, int>, std::vector<at::Tensor>> letters_;
};

/// What was done at once; what has left is a copy.
class Done : public Transfer {
 public:
  bool done() override { return true; }
  void wait() override {}
};

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadGroup> group, int rank) : group_(std::move(group)), rank_(rank) {}

  std::unique_ptr<Transfer> start_all_reduce(const at::Tensor& tensor, Reduce reduce) override {
    at::Tensor result;
    meet(tensor, [&](const auto& tensors, const auto&) {
      result = tensors[0].clone();
      for (size_t i = 1; i < tensors.size(); ++i) {
        if (reduce == Reduce::kMax) {
          result = at::maximum(result, tensors[i]);
        } else if (reduce == Reduce::kMin) {
          result = at::minimum(result, tensors[i]);
        } else {
          result += tensors[i];
        }
      }
      if (reduce == Reduce::kAverage) result /= group_->size();
    });
    tensor.copy_(result);
    return std::make_unique<Done>();
  }
  std::unique_ptr<Transfer> start_all_gather(const at::Tensor& result, const at::Tensor& tensor) override {
    meet(tensor, [&](const auto& tensors, const auto&) {
      const int64_t rows = tensor.size(0);
      for (size_t i = 0; i < tensors.size(); ++i)
        result.narrow(0, static_cast<int64_t>(i) * rows, rows).copy_(tensors[i]);
    });
    return std::make_unique<Done>();
  }
  std::unique_ptr<Transfer> start_reduce_scatter(const at::Tensor& result, const at::Tensor& tensor) override {
    at::Tensor sum;
    meet(tensor, [&](const auto& tensors, const auto&) {
      const int64_t rows = result.size(0);
      sum = tensors[0].narrow(0, rank_ * rows, rows).clone();
      for (size_t i = 1; i < tensors.size(); ++i) sum += tensors[i].narrow(0, rank_ * rows, rows);
    });
    result.copy_(sum);  // which may be a part of what others have read until now
    return std::make_unique<Done>();
  }
  void all_to_all(at::Tensor& result, const at::Tensor& tensor, const std::vector<int64_t>& output_rows,
                  const std::vector<int64_t>& input_rows) override {
    group_->meet(rank_, tensor, input_rows, [&](const auto& tensors, const auto& rows) {
      int64_t to = 0;
      for (size_t i = 0; i < tensors.size(); ++i) {
        int64_t from = 0;
        for (int before = 0; before < rank_; ++before) from += rows[i][static_cast<size_t>(before)];
        VIADUCT_CHECK_EQ(rows[i][static_cast<size_t>(rank_)], output_rows[i]);
        result.narrow(0, to, output_rows[i]).copy_(tensors[i].narrow(0, from, output_rows[i]));
        to += output_rows[i];
      }
    });
  }
  void broadcast(at::Tensor& tensor, int root) override {
    meet(tensor, [&](const auto& tensors, const auto&) {
      if (rank_ != root) tensor.copy_(tensors[static_cast<size_t>(root)]);
    });
  }
  void send(const at::Tensor& tensor, int to, int tag) override { group_->put(rank_, to, tag, tensor); }
  std::unique_ptr<Transfer> start_send(const at::Tensor& tensor, int to, int tag) override {
    group_->put(rank_, to, tag, tensor);
    return std::make_unique<Done>();
  }
  void connect(int, int, int) override {}
  void receive(at::Tensor& tensor, int from, int tag) override { tensor.copy_(group_->take(from, rank_, tag)); }
  void barrier() override { group_->wait(); }

 private:
  template <class Look>
  void meet(const at::Tensor& tensor, Look&& look) {
    group_->meet(rank_, tensor.detach(), {}, look);
  }

  std::shared_ptr<ThreadGroup> group_;
  int rank_;
};

/// Runs `work` on every rank of the layout, each a thread, and throws the error of the lowest rank that had one of
/// its own. A rank that throws ends the others at their next meeting (RankGone). [rank]: what it threw goes to
/// `errors`, if given, instead.
inline void run_ranks(const topology::Parallelism& sizes, const std::function<void(const Mesh&)>& work,
                      topology::RankOrder order = topology::RankOrder::kPipelineLast,
                      std::vector<std::exception_ptr>* errors = nullptr) {
  const topology::RankGrid grid(sizes, order);
  const int world = grid.world_size();
  std::map<std::pair<std::string, int>, std::shared_ptr<ThreadGroup>> groups;  // by name and first rank
  const auto group_of = [&](const std::string& name, const std::vector<int>& ranks, int rank) {
    if (ranks.size() == 1) return Group(name, ranks, 0, nullptr);
    auto& shared = groups[{name, ranks[0]}];
    if (!shared) shared = std::make_shared<ThreadGroup>(static_cast<int>(ranks.size()));
    const auto me = static_cast<int>(std::find(ranks.begin(), ranks.end(), rank) - ranks.begin());
    return Group(name, ranks, me, std::make_shared<ThreadCommunicator>(shared, me));
  };
  std::vector<Mesh> meshes;
  for (int rank = 0; rank < world; ++rank)
    meshes.emplace_back(sizes, grid, rank, [&](const char* name, const std::vector<int>& ranks) {
      return group_of(name, ranks, rank);
    });
  std::vector<std::exception_ptr> thrown(static_cast<size_t>(world));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world; ++rank)
    threads.emplace_back([&, rank] {
      try {
        work(meshes[static_cast<size_t>(rank)]);
      } catch (...) {
        thrown[static_cast<size_t>(rank)] = std::current_exception();
        for (const auto& [name, group] : groups) group->leave();
      }
    });
  for (std::thread& thread : threads) thread.join();
  if (errors) {
    *errors = std::move(thrown);
    return;
  }
  std::exception_ptr gone;
  for (const std::exception_ptr& error : thrown) {
    if (!error) continue;
    try {
      std::rethrow_exception(error);
    } catch (const RankGone&) {
      gone = error;
    }
  }
  if (gone) std::rethrow_exception(gone);
}

}  // namespace viaduct::parallel
