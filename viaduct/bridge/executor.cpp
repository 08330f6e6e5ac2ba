#include "viaduct/bridge/executor.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "viaduct/bridge/budget.h"
#include "viaduct/bridge/copy_move.h"
#include "viaduct/bridge/encode.h"
#include "viaduct/bridge/jobs.h"
#include "viaduct/core/buffer.h"
#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"

namespace viaduct::bridge {

namespace {

constexpr uint64_t kPage = 4096;
// Runs are copied and hashed in pieces that stay in the processor's own cache.
constexpr uint64_t kTileBytes = 256u << 10;

// A block that several jobs make, one after the other.
struct SharedBlock {
  Xxh3Stream hash;
  uint32_t crc = 0;
  uint64_t next = 0;  // the byte of the chunk that is to be hashed next
};

class Execution {
 public:
  Execution(const TransferPlan& plan, ByteSource& source, ByteSink& sink, const ExecuteOptions& options)
      : plan_(plan), source_(source), sink_(sink), options_(options), budget_(options, source.pace()) {}

  ExecuteReport run() {
    const auto start = std::chrono::steady_clock::now();
    find_crc_fields();
    find_done_blocks();
    JobList list = plan_jobs(plan_, sums_, budget_.wide, budget_.most());
    jobs_ = std::move(list.jobs);
    cache_.emplace(std::move(list.uses), budget_.slots);
    jobs_of_chunk_ = std::move(list.jobs_of_chunk);
    jobs_left_ = std::vector<std::atomic<uint32_t>>(jobs_of_chunk_.begin(), jobs_of_chunk_.end());

    std::vector<std::thread> threads;
    for (int i = 0; i < budget_.readers; ++i) threads.emplace_back([this] { guard([this] { read(); }); });
    for (int i = 0; i < budget_.workers; ++i) threads.emplace_back([this] { guard([this] { work(); }); });
    guard([this] { write_literals(); });
    for (std::thread& thread : threads) thread.join();
    if (error_) std::rethrow_exception(error_);
    source_.finish();
    sink_.finish();

    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    return {bytes_read_, bytes_written_, seconds.count(), std::move(sums_)};
  }

 private:
  struct Planned {
    size_t job = 0;
    std::vector<SourceNeed> needs;
    std::vector<SourceCache::Entry*> entries;  // beside `needs`; empty when the worker takes them in turns
    bool in_turns = false;
  };
  using Lock = std::unique_lock<std::mutex>;

  template <class Work>
  void guard(Work&& work) {
    try {
      work();
    } catch (...) {
      fail(std::current_exception());  // thrown again by run()
    }
  }
  void fail(std::exception_ptr error) {
    const Lock lock(mutex_);
    if (!error_) error_ = std::move(error);
    stop_ = true;
    changed_.notify_all();
    loaded_.notify_all();
  }
  // Waits on `condition` until `ready`; false when everything is to stop.
  template <class Ready>
  bool wait(Lock& lock, std::condition_variable& condition, Ready&& ready) {
    condition.wait(lock, [&] { return stop_ || ready(); });
    return !stop_;
  }

  void find_crc_fields();
  void find_done_blocks();
  void write_literals();
  void write(uint32_t file, uint64_t offset, std::span<const std::byte> bytes) {
    sink_.write(file, offset, bytes);
    bytes_written_ += bytes.size();
  }
  std::string source_name(uint32_t file) const {
    return file < plan_.source_files.size() ? plan_.source_files[file].string() : fmt::format("source {}", file);
  }

  void read();
  void plan_next(Lock& lock);
  void load_next(Lock& lock);

  void work();
  void make(const Planned& planned, std::byte* buffer, SourceView& view, CopyScratch& scratch);
  void show(const SourceNeed& need, const SourceCache::Entry& entry, SourceView& view) const;
  uint64_t copy_in_turns(const Planned& planned, const std::vector<Move>& moves, std::byte* origin,
                         SourceView& view, CopyScratch& scratch);
  void finish_chunk(uint32_t id);

  const TransferPlan& plan_;
  ByteSource& source_;
  ByteSink& sink_;
  const ExecuteOptions& options_;
  const Budget budget_;
  std::vector<std::vector<BlockSum>> sums_;
  std::vector<std::vector<uint32_t>> crc_fields_of_;  // [target chunk], when there are any
  std::vector<Job> jobs_;
  std::vector<uint32_t> jobs_of_chunk_;           // [target chunk]
  std::vector<std::atomic<uint32_t>> jobs_left_;  // [target chunk]
  std::atomic<uint64_t> bytes_read_{0}, bytes_written_{0};

  std::mutex mutex_;                 // guards all below
  std::condition_variable changed_;  // something was planned or released
  std::condition_variable loaded_;   // a source block is there, or a shared block moved on
  std::optional<SourceCache> cache_;
  std::deque<SourceCache::Entry*> to_load_;
  std::deque<Planned> planned_;  // in the order of jobs_
  size_t next_job_ = 0;          // the job to be planned next
  size_t jobs_open_ = 0;         // planned and not finished
  bool planning_ = false;        // one reader is at it
  bool in_turns_ = false;        // a job that takes its source in turns has all the memory
  std::unordered_map<uint64_t, SharedBlock> shared_blocks_;
  bool stop_ = false;
  std::exception_ptr error_;
};

void Execution::find_crc_fields() {
  const std::vector<formats::CrcField>& fields = plan_.target.crc_fields;
  if (fields.empty()) return;
  VIADUCT_CHECK(options_.crc, "the plan has CRC fields");
  crc_fields_of_.resize(plan_.targets.size());
  std::vector<std::vector<uint32_t>> ids(plan_.target.tensors.size());
  for (uint32_t id = 0; id < plan_.targets.size(); ++id) {
    std::vector<uint32_t>& of_tensor = ids.at(plan_.targets[id].tensor);
    if (of_tensor.size() <= plan_.targets[id].chunk) of_tensor.resize(plan_.targets[id].chunk + size_t{1});
    of_tensor[plan_.targets[id].chunk] = id;
  }
  for (uint32_t f = 0; f < fields.size(); ++f)
    if (options_.makes(fields[f].file))
      crc_fields_of_.at(ids.at(fields[f].tensor).at(fields[f].chunk)).push_back(f);
}

// Blocks of an earlier run: each is read again before it is believed.
void Execution::find_done_blocks() {
  sums_.resize(plan_.targets.size());
  for (size_t id = 0; id < sums_.size(); ++id)
    if (options_.makes(plan_.targets[id].file)) sums_[id].resize(plan_.targets[id].num_blocks());
  if (!options_.journal) return;
  std::atomic<size_t> next{0};
  const auto look = [&] {
    for (size_t id = next++; id < sums_.size(); id = next++) {
      for (size_t block = 0; block < sums_[id].size(); ++block) {
        if (options_.progress && options_.progress->cancelled()) throw Interrupted("interrupted");
        const auto sum = options_.journal->find(static_cast<uint32_t>(id), static_cast<uint32_t>(block));
        if (!sum) continue;
        sums_[id][block] = *sum;
        sums_[id][block].done = true;
        if (options_.progress)
          options_.progress->advance(std::min(kBlockBytes, plan_.targets[id].num_bytes() - block * kBlockBytes));
      }
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < budget_.workers; ++i) threads.emplace_back([&] { guard(look); });
  for (std::thread& thread : threads) thread.join();
  if (error_) std::rethrow_exception(error_);
}

// Literals go out around the CRC fields inside them, which come when their chunks are done.
void Execution::write_literals() {
  const std::vector<formats::CrcField>& fields = plan_.target.crc_fields;
  size_t field = 0;
  for (const formats::Literal& literal : plan_.target.literals) {
    const auto bytes = std::as_bytes(std::span(literal.bytes.view()));
    uint64_t done = 0;
    const auto write_to = [&](uint64_t end) {
      if (end > done && options_.makes(literal.file))
        write(literal.file, literal.offset + done, bytes.subspan(done, end - done));
      done = end;
    };
    for (; field < fields.size() && fields[field].file == literal.file &&
           fields[field].offset < literal.offset + bytes.size();
         ++field) {
      const uint64_t at = fields[field].offset - literal.offset;
      VIADUCT_CHECK(fields[field].offset >= literal.offset + done && at + 4 <= bytes.size(),
                    "the CRC field at byte {} of file {} lies in no literal", fields[field].offset, literal.file);
      write_to(at);
      done += 4;
    }
    write_to(bytes.size());
  }
  VIADUCT_CHECK_EQ(field, fields.size(), "CRC fields outside the literals");
  for (uint32_t id = 0; id < plan_.targets.size(); ++id)
    if (jobs_of_chunk_[id] == 0) finish_chunk(id);  // empty, or made by an earlier run
}

// What a reader does: it loads what was planned, and plans further when there is nothing to load.
void Execution::read() {
  Lock lock(mutex_);
  while (!stop_) {
    if (!to_load_.empty()) {
      load_next(lock);
    } else if (!planning_ && next_job_ < jobs_.size()) {
      plan_next(lock);
    } else if (!planning_ && !in_turns_) {
      return;
    } else {
      changed_.wait(lock);
    }
  }
}

// Pins the source blocks of the next job and has the missing ones loaded.
void Execution::plan_next(Lock& lock) {
  planning_ = true;
  Planned planned;
  planned.job = next_job_++;
  const Job& job = jobs_[planned.job];
  lock.unlock();
  find_needs(plan_, plan_.targets[job.chunk], job.begin, job.begin + job.size, planned.needs);
  lock.lock();
  const auto pause = [&] {
    if (to_load_.empty()) {
      changed_.wait(lock);
    } else {
      load_next(lock);
    }
  };
  while (!stop_ && jobs_open_ > 0 &&
         (in_turns_ || cache_->num_pinned() + cache_->num_unpinned(planned.needs) > budget_.ahead))
    pause();
  planned.in_turns = in_turns_ = planned.needs.size() > budget_.most();
  // Blocks are offered to the readers together, so that one read can bring several.
  std::vector<SourceCache::Entry*> fresh_entries;
  const auto offer = [&] {
    to_load_.insert(to_load_.end(), fresh_entries.begin(), fresh_entries.end());
    fresh_entries.clear();
    changed_.notify_all();
  };
  for (const SourceNeed& need : planned.needs) {
    if (planned.in_turns) break;
    SourceCache::Entry* entry = nullptr;
    bool fresh = false;
    while (!stop_ && !(entry = cache_->pin(need.key, fresh))) {
      offer();
      pause();
    }
    if (stop_) return;
    planned.entries.push_back(entry);
    if (fresh) fresh_entries.push_back(entry);
  }
  offer();
  ++jobs_open_;
  planned_.push_back(std::move(planned));
  planning_ = false;
  changed_.notify_all();
}

void Execution::load_next(Lock& lock) {
  std::vector<SourceCache::Entry*> run;
  std::vector<std::span<std::byte>> parts;
  const auto follows = [&](const SourceCache::Entry& entry) {
    return run.empty() || (entry.key == run.back()->key + 1 && entry.begin == 0 &&
                           run.back()->end == static_cast<uint32_t>(kSourceBlockBytes));
  };
  while (!to_load_.empty() && run.size() < budget_.together && follows(*to_load_.front())) {
    SourceCache::Entry* const entry = to_load_.front();
    to_load_.pop_front();
    run.push_back(entry);
    parts.emplace_back(entry->data + entry->begin, entry->end - entry->begin);
  }
  lock.unlock();
  const uint32_t file = file_of_key(run.front()->key);
  const uint64_t begin = offset_of_key(run.front()->key) + run.front()->begin, size = source_.size(file);
  const uint64_t end = offset_of_key(run.back()->key) + run.back()->end;
  // Whole pages, which a file's end cuts short.
  uint64_t count = source_.read_parts(file, begin, parts);
  VIADUCT_USER_CHECK(begin + count >= std::min(size, end),
                     "{} had {} bytes, but now ends at byte {}: it was changed while it was read",
                     source_name(file), size, begin + count);
  bytes_read_ += count;
  lock.lock();
  for (SourceCache::Entry* entry : run) {
    const uint64_t there = std::min<uint64_t>(count, entry->end - entry->begin);
    count -= there;
    entry->end = entry->begin + static_cast<uint32_t>(there);
    entry->ready = true;
  }
  loaded_.notify_all();
}

void Execution::work() {
  const Buffer buffer(kBlockBytes + kPage);
  SourceView view;
  CopyScratch scratch;
  Lock lock(mutex_);
  while (true) {
    const auto all_planned = [&] { return next_job_ == jobs_.size() && !planning_; };
    if (!wait(lock, changed_, [&] { return !planned_.empty() || all_planned(); }) || planned_.empty()) return;
    const Planned planned = std::move(planned_.front());
    planned_.pop_front();
    const auto ready = [&] {
      return std::all_of(planned.entries.begin(), planned.entries.end(),
                         [](const auto* entry) { return entry->ready; });
    };
    if (!wait(lock, loaded_, ready)) return;
    lock.unlock();
    make(planned, buffer.data(), view, scratch);
    lock.lock();
    for (SourceCache::Entry* entry : planned.entries) cache_->unpin(entry);
    --jobs_open_;
    changed_.notify_all();
  }
}

void Execution::show(const SourceNeed& need, const SourceCache::Entry& entry, SourceView& view) const {
  const uint32_t file = file_of_key(entry.key);
  const uint64_t base = offset_of_key(entry.key);
  VIADUCT_USER_CHECK(need.end <= entry.end,
                     "{} ends at byte {}, and bytes up to {} are needed. The file is truncated: copy it again",
                     source_name(file), base + entry.end, base + need.end);
  view.add({file, base + entry.begin, base + entry.end, entry.data + entry.begin});
}

// For a job that needs more source blocks than fit: they come in groups, and what begins in a group is copied from
// it.
uint64_t Execution::copy_in_turns(const Planned& planned, const std::vector<Move>& moves, std::byte* origin,
                                  SourceView& view, CopyScratch& scratch) {
  const std::vector<SourceNeed>& needs = planned.needs;
  const size_t group = budget_.most() - 1;
  uint64_t copied = 0;
  for (size_t first = 0; first < needs.size(); first += group) {
    // One block more, for an element that lies in the last block of this group and the first of the next.
    const size_t end = std::min(first + group, needs.size()), shown = std::min(end + 1, needs.size());
    std::vector<SourceCache::Entry*> entries;
    Lock lock(mutex_);
    for (size_t i = first; i < shown; ++i) {
      bool fresh = false;
      entries.push_back(cache_->pin(needs[i].key, fresh));
      VIADUCT_CHECK(entries.back() != nullptr, "no memory for {} source blocks", shown - first);
      if (fresh) to_load_.push_back(entries.back());
    }
    changed_.notify_all();
    const auto ready = [&] {
      return std::all_of(entries.begin(), entries.end(), [](const auto* entry) { return entry->ready; });
    };
    if (!wait(lock, loaded_, ready)) return 0;
    lock.unlock();
    view.clear();
    for (size_t i = first; i < shown; ++i) show(needs[i], *entries[i - first], view);
    for (size_t i = first; i < end; ++i) {
      const uint32_t file = file_of_key(needs[i].key);
      const uint64_t begin = offset_of_key(needs[i].key);
      // Blocks that follow each other are one stretch.
      while (i + 1 < end && needs[i + 1].key == needs[i].key + 1) ++i;
      for (const Move& move : moves) {
        if (move.fill || move.file != file) continue;
        clip_source(move, begin, offset_of_key(needs[i].key) + kSourceBlockBytes,
                    [&](const Move& part) { copied += copy_move(part, view, scratch, origin); });
      }
    }
    lock.lock();
    for (size_t i = first; i < shown; ++i) cache_->unpin(entries[i - first], i < end);
  }
  for (const Move& move : moves)
    if (move.fill) copied += copy_move(move, view, scratch, origin);
  const Lock lock(mutex_);
  in_turns_ = false;
  return copied;
}

// Puts together, hashes and writes the bytes of one job.
void Execution::make(const Planned& planned, std::byte* buffer, SourceView& view, CopyScratch& scratch) {
  const Job& job = jobs_[planned.job];
  const TargetChunk& chunk = plan_.targets[job.chunk];
  view.clear();
  for (size_t i = 0; i < planned.entries.size(); ++i) show(planned.needs[i], *planned.entries[i], view);
  std::vector<Move> moves;
  bool runs = true;
  const uint64_t end = job.begin + job.size;
  const auto [first, last] = number_bytes(plan_, chunk, job.begin, end);
  for_each_move(plan_, plan_.numbers_of(chunk), first, last, [&](const Move& move) {
    runs &= move.is_runs();
    moves.push_back(move);
  });
  // The address is congruent to the file offset, so that the aligned middle can be written directly.
  const uint64_t offset = chunk.byte_offset + job.begin;
  std::byte* const data = buffer + offset % kPage;
  std::byte* const origin = data - job.begin;

  const uint64_t block_begin = job.begin / kBlockBytes * kBlockBytes;
  const uint64_t block_end = std::min(block_begin + kBlockBytes, chunk.num_bytes());
  const bool whole = job.begin == block_begin && end == block_end;
  std::optional<SharedBlock> own;
  SharedBlock* sums = nullptr;
  if (whole) sums = &own.emplace();
  const auto hash = [&](uint64_t from, uint64_t to) {
    const std::span<const std::byte> bytes(origin + from, to - from);
    sums->hash.add(bytes);
    if (options_.crc) sums->crc = crc32(bytes, sums->crc);
  };
  uint64_t copied = 0;
  const bool changes = options_.change && options_.change->changes(job.chunk);
  const bool hash_at_once = whole && !changes;
  const uint64_t tile = runs && whole && !planned.in_turns ? kTileBytes : kBlockBytes;
  if (planned.in_turns) copied = copy_in_turns(planned, moves, origin, view, scratch);
  if (chunk.encoder != kNoEncoder) {
    encode_bytes(plan_, chunk, job.begin, end, moves, view, scratch, origin);
    copied = job.size;
    if (hash_at_once) hash(job.begin, end);
  }
  for (uint64_t from = job.begin; from < end && chunk.encoder == kNoEncoder; from += tile) {
    const uint64_t to = std::min(from + tile, end);
    for (const Move& move : moves) {
      if (planned.in_turns) break;
      clip(move, static_cast<int64_t>(from), static_cast<int64_t>(to),
           [&](const Move& part) { copied += copy_move(part, view, scratch, origin); });
    }
    if (hash_at_once) hash(from, to);
  }
  VIADUCT_CHECK_EQ(copied, job.size, "the transfers do not make the bytes from {} of a chunk at {} of file {}",
                   job.begin, chunk.byte_offset, chunk.file);
  if (changes) {
    options_.change->apply(job.chunk, job.begin, {data, job.size});
    if (whole) hash(job.begin, end);
  }
  const uint64_t key = uint64_t{job.chunk} << 32 | job.block();
  if (!whole) {
    Lock lock(mutex_);
    sums = &shared_blocks_.try_emplace(key).first->second;
    if (sums->next == 0) sums->next = block_begin;
    if (!wait(lock, loaded_, [&] { return sums->next == job.begin; })) return;
    lock.unlock();
    hash(job.begin, end);
  }
  write(chunk.file, offset, {data, job.size});
  BlockSum sum{sums->hash.value(), sums->crc, true};
  if (!whole) {
    const Lock lock(mutex_);
    sums->next = end;
    if (end == block_end) shared_blocks_.erase(key);
    loaded_.notify_all();
  }
  if (end == block_end) {
    sums_[job.chunk][job.block()] = sum;
    if (options_.journal) options_.journal->record(job.chunk, job.block(), sum);
  }
  if (jobs_left_[job.chunk].fetch_sub(1) == 1) finish_chunk(job.chunk);
  if (!options_.progress) return;
  options_.progress->advance(job.size);
  if (options_.progress->cancelled()) throw Interrupted("interrupted");
}

void Execution::finish_chunk(uint32_t id) {
  if (crc_fields_of_.empty() || crc_fields_of_[id].empty()) return;
  VIADUCT_CHECK(options_.makes(plan_.targets[id].file), "a CRC field lies in another file than its chunk {}", id);
  uint32_t crc = 0;
  uint64_t rest = plan_.targets[id].num_bytes();
  for (const BlockSum& sum : sums_[id]) {
    const uint64_t size = std::min(rest, kBlockBytes);
    crc = crc32_combine(crc, sum.crc32, size);
    rest -= size;
  }
  std::byte bytes[4];
  for (int i = 0; i < 4; ++i) bytes[i] = static_cast<std::byte>(crc >> (8 * i));
  for (uint32_t f : crc_fields_of_[id])
    write(plan_.target.crc_fields[f].file, plan_.target.crc_fields[f].offset, bytes);
}

}  // namespace

ExecuteReport execute(const TransferPlan& plan, ByteSource& source, ByteSink& sink, const ExecuteOptions& options) {
  return Execution(plan, source, sink, options).run();
}

}  // namespace viaduct::bridge
