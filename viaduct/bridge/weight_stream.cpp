#include "viaduct/bridge/weight_stream.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "viaduct/bridge/plan_builder.h"
#include "viaduct/bridge/verify.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {

struct WeightStream::Work : Progress {
  Work(const Checkpoint& source, uint64_t limit) : checkpoint(source), read_ahead(limit) {
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

  LoadedTensor read(const View& view, const ViewTensor& tensor) {
    PlanBuilder builder(checkpoint.stored());
    add_to_plan(view, tensor, tensor.dtype, 0, builder);
    const TransferPlan plan = builder.finish_virtual();
    LoadedTensor loaded{tensor.name, tensor.dtype, tensor.shape, {}};
    loaded.bytes.resize(plan.bytes_of_data());
    const auto source = file_source(plan.source_files);
    const auto sink = memory_sink({std::span(loaded.bytes)});
    ExecuteOptions options;
    options.progress = this;
    options.crc = false;
    execute(plan, *source, *sink, options);
    return loaded;
  }

  void read_all() {
    try {
      const View view = hf_view(checkpoint);
      for (const ViewTensor& tensor : view.tensors) {
        const auto size = static_cast<uint64_t>(num_bytes(tensor.dtype, num_elements(tensor.shape)));
        {
          std::unique_lock lock(mutex);
          changed.wait(lock, [&] { return stopped || queue.empty() || queued + size <= read_ahead; });
          if (stopped) return;
        }
        LoadedTensor loaded = read(view, tensor);
        {
          const std::lock_guard lock(mutex);
          queued += loaded.bytes.size();
          queue.push_back(std::move(loaded));
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

  const Checkpoint& checkpoint;
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

WeightStream::WeightStream(const Checkpoint& checkpoint, uint64_t read_ahead)
    : work_(std::make_unique<Work>(checkpoint, read_ahead)) {}

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
