#include "viaduct/bridge/direct_read.h"

#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

#include "viaduct/bridge/jobs.h"
#include "viaduct/core/error.h"
#include "viaduct/core/file.h"

namespace viaduct::bridge {

namespace {

constexpr int64_t kShortestRun = 32 << 10;  // below this a read costs more than a copy
constexpr uint64_t kTaskBytes = 8u << 20;

// Calls `visit(source byte of its file, target byte, size)` with the runs of a move that is some.
template <class Visit>
void for_each_run(const Move& move, Visit&& visit) {
  const int outer = move.rank - 1;
  std::array<int64_t, Shape::kMaxRank + 1> index{};
  int64_t source = move.source, target = move.target;
  while (true) {
    visit(move.source_base + static_cast<uint64_t>(source), static_cast<uint64_t>(target),
          static_cast<uint64_t>(move.axes[outer].count));
    int a = outer - 1;
    for (; a >= 0; --a) {
      source += move.axes[a].source_step;
      target += move.axes[a].target_step;
      if (++index[a] < move.axes[a].count) break;
      source -= move.axes[a].count * move.axes[a].source_step;
      target -= move.axes[a].count * move.axes[a].target_step;
      index[a] = 0;
    }
    if (a < 0) return;
  }
}

bool is_direct(const TransferPlan& plan, const TargetChunk& chunk) {
  if (chunk.encoder != kNoEncoder || chunk.add != 0 || !is_byte_sized(chunk.dtype)) return false;
  int64_t runs = 0;
  for (uint32_t t = 0; t < chunk.num_transfers; ++t) {
    const Move move = compile(plan, plan.transfers[chunk.first_transfer + t], chunk);
    if (!move.is_runs() || move.by_element || move.scales || move.add != 0) return false;
    int64_t count = 1;
    for (int a = 0; a + 1 < move.rank; ++a) count *= move.axes[a].count;
    runs += count;
  }
  return (runs - 1) * kShortestRun <= static_cast<int64_t>(chunk.num_bytes());
}

struct Task {
  std::pair<uint32_t, uint64_t> source;  // its first byte: tasks are done in the files' order
  uint32_t target = 0;
  uint64_t begin = 0;
};

}  // namespace

std::vector<bool> direct_targets(const TransferPlan& plan) {
  std::vector<bool> direct(plan.target.files.size(), false);
  if (plan.store) return direct;
  for (const TargetChunk& chunk : plan.targets) direct.at(chunk.file) = is_direct(plan, chunk);
  return direct;
}

uint64_t read_directly(const TransferPlan& plan, const std::vector<bool>& files,
                       std::span<const std::span<std::byte>> memory, const ExecuteOptions& options) {
  std::vector<Task> tasks;
  std::map<uint32_t, std::filesystem::file_time_type> times;
  for (uint32_t id = 0; id < plan.targets.size(); ++id) {
    const TargetChunk& chunk = plan.targets[id];
    if (!files.at(chunk.file)) continue;
    VIADUCT_CHECK_EQ(memory[chunk.file].size(), chunk.num_bytes());
    for (uint64_t begin = 0; begin < chunk.num_bytes(); begin += kTaskBytes) {
      Task task{{~0u, 0}, id, begin};
      for_each_move(plan, chunk, begin, std::min(begin + kTaskBytes, chunk.num_bytes()), [&](const Move& move) {
        if (move.fill) return;
        task.source = std::min(task.source, {move.file, move.source_base + static_cast<uint64_t>(move.source)});
        if (!times.contains(move.file))
          times[move.file] = std::filesystem::last_write_time(plan.source_files[move.file]);
      });
      tasks.push_back(task);
    }
  }
  std::sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) {
    return std::tie(a.source, a.target, a.begin) < std::tie(b.source, b.target, b.begin);
  });

  std::atomic<size_t> next{0};
  std::atomic<uint64_t> bytes{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::exception_ptr error;
  const auto work = [&] {
    std::map<uint32_t, File> open;  // a thread's own: the kernel reads on ahead of each
    for (size_t i = next++; i < tasks.size() && !stop; i = next++) {
      const TargetChunk& chunk = plan.targets[tasks[i].target];
      std::byte* const to = memory[chunk.file].data();
      const uint64_t end = std::min(tasks[i].begin + kTaskBytes, chunk.num_bytes());
      for_each_move(plan, chunk, tasks[i].begin, end, [&](const Move& move) {
        if (move.fill) {
          for_each_run(move, [&](uint64_t, uint64_t target, uint64_t size) { std::memset(to + target, 0, size); });
          return;
        }
        File& file = open[move.file];
        if (!file.is_open()) {
          file = File::open(plan.source_files[move.file], File::Mode::kRead);
          ::posix_fadvise(file.fd(), 0, 0, POSIX_FADV_SEQUENTIAL);
        }
        for_each_run(move, [&](uint64_t source, uint64_t target, uint64_t size) {
          file.read(source, {to + target, size});
          bytes += size;
        });
      });
      if (!options.progress) continue;
      options.progress->advance(end - tasks[i].begin);
      if (options.progress->cancelled()) throw Interrupted("interrupted");
    }
  };
  const auto guarded = [&] {
    try {
      work();
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();  // thrown again below
      stop = true;
    }
  };
  const int processors = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 4);
  std::vector<std::thread> threads;
  for (int i = 1; i < (options.threads > 0 ? options.threads : processors); ++i) threads.emplace_back(guarded);
  guarded();
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
  for (const auto& [file, time] : times)
    VIADUCT_USER_CHECK(std::filesystem::last_write_time(plan.source_files[file]) == time,
                       "{} was changed while it was read", plan.source_files[file].string());
  return bytes;
}

}  // namespace viaduct::bridge
