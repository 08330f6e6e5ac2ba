#include "viaduct/bridge/weight_stream.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "viaduct/bridge/executor.h"
#include "viaduct/bridge/plan_builder.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {

namespace {

// Tensors that are read in one go: together they have few enough bytes, so that what lies in one block of the
// source is mostly read once.
constexpr uint64_t kBatchBytes = 64u << 20;

struct Wanted {
  const ViewTensor* tensor;
  DType dtype;
  uint64_t num_bytes() const {
    return static_cast<uint64_t>(viaduct::num_bytes(dtype, num_elements(tensor->shape)));
  }
};

std::vector<LoadedTensor> load(const View& view, std::span<const Wanted> wanted, Progress* progress) {
  PlanBuilder builder(*view.stored);
  std::vector<LoadedTensor> loaded;
  std::vector<std::span<std::byte>> buffers;
  for (const Wanted& each : wanted) {
    add_to_plan(view, *each.tensor, each.dtype, static_cast<uint32_t>(loaded.size()), builder);
    loaded.push_back({each.tensor->name, each.dtype, each.tensor->shape, Buffer(each.num_bytes())});
    buffers.push_back(loaded.back().bytes.bytes());
  }
  const TransferPlan plan = builder.finish_virtual();
  const auto source = open_source(plan);
  const auto sink = memory_sink(buffers);
  ExecuteOptions options;
  options.progress = progress;
  options.crc = false;
  options.max_memory = 96u << 20;
  execute(plan, *source, *sink, options);
  return loaded;
}

}  // namespace

LoadedTensor load_tensor(const View& view, const ViewTensor& tensor, DType dtype, Progress* progress) {
  const Wanted wanted{&tensor, dtype};
  return std::move(load(view, {&wanted, 1}, progress)[0]);
}

struct WeightStream::Work : Progress {
  Work(View source, std::optional<DType> wanted, uint64_t limit)
      : view(std::move(source)), cast(wanted), read_ahead(limit) {
    thread = std::thread([this] { read_all(); });
  }
  ~Work() override {
    {
      const std::lock_guard lock(mutex);
      stopped = true;
    }
    changed.notify_all();
    thread.join();
  }

  void begin(std::string_view, uint64_t) override {}
  void advance(uint64_t) override {}
  void end() override {}
  bool cancelled() override { return stopped; }

  void read_all() {
    try {
      for (size_t next = 0; next < view.tensors.size();) {
        std::vector<Wanted> batch;
        uint64_t size = 0;
        for (; next < view.tensors.size(); ++next) {
          const ViewTensor& tensor = view.tensors[next];
          const Wanted wanted{&tensor, cast && is_floating(tensor.dtype) ? *cast : tensor.dtype};
          if (!batch.empty() && size + wanted.num_bytes() > kBatchBytes) break;
          size += wanted.num_bytes();
          batch.push_back(wanted);
        }
        {
          std::unique_lock lock(mutex);
          changed.wait(lock, [&] { return stopped || queue.empty() || queued + size <= read_ahead; });
          if (stopped) return;
        }
        std::vector<LoadedTensor> loaded = load(view, batch, this);
        {
          const std::lock_guard lock(mutex);
          queued += size;
          for (LoadedTensor& tensor : loaded) queue.push_back(std::move(tensor));
        }
        changed.notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
    }
    {
      const std::lock_guard lock(mutex);
      ended = true;
    }
    changed.notify_all();
  }

  const View view;
  const std::optional<DType> cast;
  const uint64_t read_ahead;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<LoadedTensor> queue;
  uint64_t queued = 0;
  std::atomic<bool> stopped = false;
  bool ended = false;
  std::exception_ptr error;
  std::thread thread;
};

WeightStream::WeightStream(View view, std::optional<DType> cast, uint64_t read_ahead)
    : work_(std::make_unique<Work>(std::move(view), cast, read_ahead)) {}

WeightStream::~WeightStream() = default;

WeightStream::State WeightStream::wait(int milliseconds) {
  std::unique_lock lock(work_->mutex);
  work_->changed.wait_for(lock, std::chrono::milliseconds(milliseconds),
                          [&] { return !work_->queue.empty() || work_->ended; });
  if (!work_->queue.empty()) return State::kReady;
  if (!work_->ended) return State::kWaiting;
  if (work_->error) std::rethrow_exception(work_->error);
  return State::kEnded;
}

std::optional<LoadedTensor> WeightStream::next() {
  State state = State::kWaiting;
  while (state == State::kWaiting) state = wait(1000);
  if (state == State::kEnded) return std::nullopt;
  LoadedTensor loaded;
  {
    const std::lock_guard lock(work_->mutex);
    loaded = std::move(work_->queue.front());
    work_->queue.pop_front();
    work_->queued -= loaded.bytes.size();
  }
  work_->changed.notify_all();
  return loaded;
}

}  // namespace viaduct::bridge
