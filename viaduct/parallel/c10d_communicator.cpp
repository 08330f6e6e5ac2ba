#include "viaduct/parallel/c10d_communicator.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <exception>
#include <functional>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <utility>

#include "viaduct/core/error.h"

namespace viaduct::parallel {

namespace {

using WorkPtr = c10::intrusive_ptr<c10d::Work>;

// Runs something of c10d. What it throws (Gloo's exceptions come from std::runtime_error, torch's from c10::Error)
// means that another rank is gone or did not come: arguments were checked before.
template <class Run>
auto guarded(RankWatch& watch, const std::string& activity, const std::vector<int>& ranks, const Run& run) {
  watch.check(activity);
  watch.doing(activity);
  std::string cause;
  try {
    if constexpr (std::is_void_v<decltype(run())>) {
      run();
      watch.doing("");
      return;
    } else {
      auto result = run();
      watch.doing("");
      return result;
    }
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    cause = first_line(error);
  }
  watch.fail(activity, ranks, cause);
}

// All bytes of a contiguous tensor.
at::Tensor bytes_of(const at::Tensor& tensor) { return tensor.view({tensor.numel()}).view(at::kByte); }

class C10dTransfer : public Transfer {
 public:
  // `then` is called once the work is done: what a backend leaves to do.
  C10dTransfer(WorkPtr work, std::shared_ptr<Connections> connections, std::string activity,
               std::function<void()> then)
      : work_(std::move(work)),
        connections_(std::move(connections)),
        activity_(std::move(activity)),
        then_(std::move(then)) {}

  bool done() override { return work_->isCompleted() && !then_; }
  void wait() override {
    guarded(connections_->watch(), activity_, connections_->ranks(), [&] { work_->wait(); });
    if (const auto then = std::exchange(then_, nullptr)) then();
  }

 private:
  WorkPtr work_;
  std::shared_ptr<Connections> connections_;
  std::string activity_;
  std::function<void()> then_;
};

class C10dCommunicator : public Communicator {
 public:
  C10dCommunicator(std::string name, std::shared_ptr<Connections> connections)
      : name_(std::move(name)), connections_(std::move(connections)), cpu_(connections_->device().is_cpu()) {}

  std::unique_ptr<Transfer> start_all_reduce(const at::Tensor& tensor, Reduce reduce) override {
    check(tensor, "all_reduce");
    const bool average_here = reduce == Reduce::kAverage && cpu_;
    VIADUCT_CHECK(reduce != Reduce::kAverage || tensor.is_floating_point(), "an average of {} in {}",
                  c10::toString(tensor.scalar_type()), activity("all_reduce"));
    c10d::AllreduceOptions options;
    options.reduceOp = average_here ? c10d::ReduceOp(c10d::ReduceOp::SUM) : operation(reduce);
    std::vector<at::Tensor> tensors{tensor};
    std::function<void()> then;
    if (average_here) then = [size = connections_->size(), tensor] { tensor.div_(size); };
    return start(
        "all_reduce", [&] { return connections_->backend().allreduce(tensors, options); }, std::move(then));
  }

  std::unique_ptr<Transfer> start_all_gather(const at::Tensor& result, const at::Tensor& tensor) override {
    check(result, "all_gather");
    check(tensor, "all_gather");
    at::Tensor to = cpu_ ? bytes_of(result) : result;
    // Gloo copies its input to its place, also when it is there.
    at::Tensor from = !cpu_ ? tensor : bytes_of(tensor.is_alias_of(result) ? tensor.clone() : tensor);
    return start("all_gather", [&] { return connections_->backend()._allgather_base(to, from); });
  }

  std::unique_ptr<Transfer> start_reduce_scatter(const at::Tensor& result, const at::Tensor& tensor) override {
    check(result, "reduce_scatter");
    check(tensor, "reduce_scatter");
    at::Tensor to = result, from = tensor;
    if (!cpu_)
      return start("reduce_scatter", [&] { return connections_->backend()._reduce_scatter_base(to, from); });
    // Gloo's own is an all_reduce of everything. This moves each row once, and half-precision sums are rounded
    // once.
    const at::Tensor parts = at::empty(tensor.sizes(), tensor.options());
    return start_exchange("reduce_scatter", parts, tensor, {}, {},
                          [size = connections_->size(), to, parts]() mutable {
                            const at::NoGradGuard no_grad;
                            std::vector<int64_t> sizes = to.sizes().vec();
                            sizes.insert(sizes.begin(), size);
                            at::sum_out(to, parts.view(sizes), {0}, false, to.scalar_type());
                          });
  }

  void all_to_all(at::Tensor& result, const at::Tensor& tensor, const std::vector<int64_t>& output_rows,
                  const std::vector<int64_t>& input_rows) override {
    check(result, "all_to_all");
    check(tensor, "all_to_all");
    start_exchange("all_to_all", result, tensor, output_rows, input_rows, nullptr)->wait();
  }

  void broadcast(at::Tensor& tensor, int root) override {
    check(tensor, "broadcast");
    if (tensor.numel() == 0) return;
    c10d::BroadcastOptions options;
    options.rootRank = root;
    std::vector<at::Tensor> tensors{cpu_ ? bytes_of(tensor) : tensor};
    run("broadcast", [&] { return connections_->backend().broadcast(tensors, options); });
  }

  void send(const at::Tensor& tensor, int to, int tag) override {
    if (tensor.numel() != 0) start_send(tensor, to, tag)->wait();
  }

  std::unique_ptr<Transfer> start_send(const at::Tensor& tensor, int to, int tag) override {
    check(tensor, "send");
    std::vector<at::Tensor> tensors{tensor};
    return start(fmt::format("send to rank {}", global(to)), [&] {
      const Connections::Line line = connections_->line(connections_->rank(), to, tag);
      return line.backend.send(tensors, line.peer, line.tag);
    });
  }

  void receive(at::Tensor& tensor, int from, int tag) override {
    check(tensor, "receive");
    if (tensor.numel() == 0) return;
    std::vector<at::Tensor> tensors{tensor};
    run(fmt::format("receive from rank {}", global(from)), [&] {
      const Connections::Line line = connections_->line(from, connections_->rank(), tag);
      return line.backend.recv(tensors, line.peer, line.tag);
    });
  }

  void connect(int from, int to, int tag) override {
    guarded(connections_->watch(), activity(fmt::format("connect ranks {} and {}", global(from), global(to))),
            connections_->ranks(), [&] {
              const Connections::Line line = connections_->line(from, to, tag);
              if (cpu_) return;
              // NCCL joins two ranks when their first tensor is both sent and received, and the host waits for it.
              line.backend.eagerConnectSingleDevice(connections_->device());
              std::vector<at::Tensor> first{at::zeros({1}, at::TensorOptions().device(connections_->device()))};
              if (from == connections_->rank())
                line.backend.send(first, line.peer, line.tag)->wait();
              else
                line.backend.recv(first, line.peer, line.tag)->wait();
            });
  }

  void barrier() override {
    if (cpu_) {
      run("barrier", [&] { return connections_->backend().barrier(); });
      return;
    }
    // NCCL's barrier is such a sum as well; reading the result makes the host wait too.
    at::Tensor one = at::ones({1}, at::TensorOptions().device(connections_->device()).dtype(at::kInt));
    std::vector<at::Tensor> tensors{one};
    run("barrier", [&] { return connections_->backend().allreduce(tensors); });
    connections_->watch().doing(activity("barrier"));
    const int here = one.item<int>();
    connections_->watch().check(activity("barrier"));
    VIADUCT_CHECK(here == connections_->size(), "{} ranks in {}", here, activity("barrier"));
    connections_->watch().doing("");
  }

 private:
  static c10d::ReduceOp operation(Reduce reduce) {
    switch (reduce) {
      case Reduce::kSum: return c10d::ReduceOp::SUM;
      case Reduce::kMax: return c10d::ReduceOp::MAX;
      case Reduce::kMin: return c10d::ReduceOp::MIN;
      case Reduce::kAverage: return c10d::ReduceOp::AVG;
    }
    throw InternalError("a Reduce that is none");
  }

  int global(int member) const { return connections_->ranks().at(static_cast<size_t>(member)); }

  std::string activity(std::string_view operation) const {
    return fmt::format("{} of group \"{}\"", operation, name_);
  }

  void check(const at::Tensor& tensor, std::string_view operation) const {
    VIADUCT_CHECK(tensor.device() == connections_->device(),
                  "{} got a tensor on {}; the ranks of this run exchange tensors on {}", activity(operation),
                  tensor.device().str(), connections_->device().str());
    VIADUCT_CHECK(tensor.is_contiguous(), "{} got a tensor that is not contiguous", activity(operation));
  }

  template <class Start>
  std::unique_ptr<Transfer> start(std::string_view operation, const Start& begin,
                                  std::function<void()> then = nullptr) {
    std::string what = activity(operation);
    WorkPtr work = guarded(connections_->watch(), what, connections_->ranks(), begin);
    return std::make_unique<C10dTransfer>(std::move(work), connections_, std::move(what), std::move(then));
  }

  template <class Start>
  void run(std::string_view operation, const Start& begin) {
    start(operation, begin)->wait();
  }

  // Rows to and from each rank; no counts: the same number for all.
  std::unique_ptr<Transfer> start_exchange(std::string_view operation, const at::Tensor& result,
                                           const at::Tensor& tensor, std::vector<int64_t> output_rows,
                                           std::vector<int64_t> input_rows, std::function<void()> then) {
    at::Tensor to = result, from = tensor;
    if (cpu_) {
      // Of one element of `tensor` or `result` there may be none; they agree in the size of a row.
      int64_t row = result.element_size();
      for (int64_t axis = 1; axis < result.dim(); ++axis) row *= result.size(axis);
      to = bytes_of(result);
      from = bytes_of(tensor);
      for (int64_t& rows : output_rows) rows *= row;
      for (int64_t& rows : input_rows) rows *= row;
    }
    return start(
        operation, [&] { return connections_->backend().alltoall_base(to, from, output_rows, input_rows); },
        std::move(then));
  }

  const std::string name_;
  const std::shared_ptr<Connections> connections_;
  const bool cpu_;
};

}  // namespace

Connections::Connections(const BackendFactory& factory, c10::intrusive_ptr<c10d::Store> store,
                         std::vector<int> ranks, int rank, at::Device device, std::shared_ptr<RankWatch> watch)
    : factory_(factory),
      store_(std::move(store)),
      ranks_(std::move(ranks)),
      rank_(rank),
      device_(device),
      watch_(std::move(watch)) {
  const std::string name = fmt::format("{}", fmt::join(ranks_, "-"));
  backend_ = guarded(*watch_, "connecting", ranks_, [&] { return factory_(store_, rank_, size(), name); });
  keep_for_abort(backend_);
}

// c10d leaves NCCL's communicators where they are when a backend goes; a GPU has room for some hundred.
Connections::~Connections() {
  if (device_.is_cpu()) return;
  const bool orderly = !watch_->failed() && std::uncaught_exceptions() == 0;
  const auto end = [&](c10d::Backend& backend) {
    try {
      orderly ? backend.shutdown() : backend.abort();
    } catch (const c10::Error&) {
      // The other end is gone: the watch says who it was.
    }
  };
  for (const auto& [line, backend] : lines_) end(*backend);
  end(*backend_);
}

// NCCL would wait for a rank that is gone until its timeout; Gloo sees that the connection is closed.
void Connections::keep_for_abort(const c10::intrusive_ptr<c10d::Backend>& backend) {
  if (!device_.is_cpu())
    watch_->on_failure([backend = c10::weak_intrusive_ptr<c10d::Backend>(backend)](const std::string&) {
      if (const auto alive = backend.lock()) alive->abort();
    });
}

Connections::Line Connections::line(int from, int to, int tag) {
  VIADUCT_CHECK(from != to && (from == rank_ || to == rank_), "rank {} on the line from {} to {}", rank_, from, to);
  const int other = from == rank_ ? to : from;
  if (device_.is_cpu()) return {*backend_, other, tag};
  auto& backend = lines_[{from, to, tag}];
  if (!backend) {
    const std::string name =
        fmt::format("{}>{}/{}", ranks_[static_cast<size_t>(from)], ranks_[static_cast<size_t>(to)], tag);
    backend = factory_(c10::make_intrusive<c10d::PrefixStore>(name, store_), rank_ == from ? 0 : 1, 2, name);
    keep_for_abort(backend);
  }
  return {*backend, rank_ == from ? 1 : 0, 0};
}

std::shared_ptr<Communicator> c10d_communicator(std::string name, std::shared_ptr<Connections> connections) {
  return std::make_shared<C10dCommunicator>(std::move(name), std::move(connections));
}

}  // namespace viaduct::parallel
