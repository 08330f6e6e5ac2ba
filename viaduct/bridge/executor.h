// The streaming executor: moves the bytes of a TransferPlan with a few reused aligned buffers and a few threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "viaduct/bridge/transfer.h"
#include "viaduct/core/error.h"
#include "viaduct/core/progress.h"

namespace viaduct::bridge {

/// What a source elsewhere did not give, though it may another time: the network, a server. What is done is worth
/// keeping.
class RemoteError : public UserError {
 public:
  using UserError::UserError;
};

/// How a source is best read.
struct ReadPace {
  int readers = 2;    // threads that read at once
  size_t blocks = 1;  // source blocks that one read brings at most
};

/// Where bytes come from. Thread-safe.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// How it likes to be read.
  virtual ReadPace pace() const { return {}; }
  /// Bytes of a source file.
  virtual uint64_t size(uint32_t file) const = 0;
  /// Reads exactly to.size() bytes at `offset`; both, and the address, are multiples of 4096 except at a file's
  /// end, where `to` may reach past the end (returns the bytes read).
  virtual size_t read(uint32_t file, uint64_t offset, std::span<std::byte> to) = 0;
  /// Reads into `parts`, which follow each other in the file, from `offset` on, likewise.
  virtual size_t read_parts(uint32_t file, uint64_t offset, std::span<const std::span<std::byte>> parts);
  /// All reading is done: a UserError when a file has changed since it was opened.
  virtual void finish() {}
};

/// Where the files of a source are read, when not from this machine's disk. Thread-safe.
class ByteStore {
 public:
  virtual ~ByteStore() = default;
  /// A source of these files, in this order; it may live longer than the store.
  virtual std::unique_ptr<ByteSource> open(const std::vector<Path>& files) const = 0;
  /// Just to.size() bytes, wherever they lie.
  virtual void read(const Path& file, uint64_t offset, std::span<std::byte> to) const = 0;
};

/// Where bytes go. Thread-safe. Ranges of different calls never overlap and come in any order.
class ByteSink {
 public:
  virtual ~ByteSink() = default;
  /// Writes all of the bytes at `offset`.
  virtual void write(uint32_t file, uint64_t offset, std::span<const std::byte> from) = 0;
  /// All ranges have been written: complete, set sizes, fsync.
  virtual void finish() = 0;
};

/// Files read with O_DIRECT where the file system has it (buffered elsewhere, by itself), sequential read-ahead.
std::unique_ptr<ByteSource> file_source(const std::vector<Path>& files);
/// The plan's source files, through its store when it has one.
std::unique_ptr<ByteSource> open_source(const TransferPlan& plan);
/// The same with `files` in their place, some of which may be of this machine.
std::unique_ptr<ByteSource> open_source(const TransferPlan& plan, const std::vector<Path>& files);
/// Files below `directory`, created with their final sizes. Large aligned middles go out with O_DIRECT, the pages
/// at the edges of ranges are put together in memory. Of some files only: as ExecuteOptions::files has it.
std::unique_ptr<ByteSink> file_sink(const Path& directory, const std::vector<formats::TargetFile>& files,
                                    const std::vector<bool>& only = {});
/// Counts and forgets.
std::unique_ptr<ByteSink> discard_sink();
/// Whole files in memory, for tests and later refit; `buffers` outlive the source or sink.
std::unique_ptr<ByteSource> memory_source(const std::vector<std::span<const std::byte>>& buffers);
/// The same for targets.
std::unique_ptr<ByteSink> memory_sink(const std::vector<std::span<std::byte>>& buffers);
/// Calls back with each range, from several threads.
std::unique_ptr<ByteSink> callback_sink(
    std::function<void(uint32_t file, uint64_t offset, std::span<const std::byte> bytes)> callback);

/// The sums of one block of a target chunk.
struct BlockSum {
  uint64_t xxh3 = 0;
  uint32_t crc32 = 0;
  bool done = false;
};

/// What is already there from an earlier run, and where progress is recorded. Thread-safe.
class BlockJournal {
 public:
  virtual ~BlockJournal() = default;
  /// The sums of a block that is already in the target, or nullopt when it must be made.
  virtual std::optional<BlockSum> find(uint32_t target_chunk, uint32_t block) = 0;
  /// The block is in the target.
  virtual void record(uint32_t target_chunk, uint32_t block, const BlockSum& sum) = 0;
};

/// Changes target bytes when the transfers have made them, before they are hashed and written. Thread-safe.
class BlockChange {
 public:
  virtual ~BlockChange() = default;
  /// Called before the plan is executed on these source files, for what must be known of all of them first.
  virtual void prepare(const TransferPlan&, const std::vector<Path>&, const struct ExecuteOptions&) {}
  /// Does it change anything of this target chunk?
  virtual bool changes(uint32_t target_chunk) const = 0;
  /// The bytes of the chunk from `first_byte` on; whole elements.
  virtual void apply(uint32_t target_chunk, uint64_t first_byte, std::span<std::byte> bytes) = 0;
};

/// How a plan is executed.
struct ExecuteOptions {
  int threads = 0;                   // 0: one per processor, at most 8
  uint64_t max_memory = 192u << 20;  // bytes of buffers; at least 24 MiB
  Progress* progress = nullptr;      // advances by target bytes
  BlockJournal* journal = nullptr;
  bool crc = true;  // compute CRC-32 (needed when the plan has CRC fields)
  BlockChange* change = nullptr;
  /// [target file]: is it made? Of the others nothing is read, written or hashed. Empty: all are.
  std::vector<bool> files;

  /// Is this target file made?
  bool makes(uint32_t file) const { return files.empty() || files.at(file); }
};

/// What was moved, and the sums of all blocks.
struct ExecuteReport {
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
  double seconds = 0;
  std::vector<std::vector<BlockSum>> sums;  // [target chunk][block]; none for a chunk of a file that is not made
};

/// Makes every target chunk of the plan and writes literals and CRC fields (of some files only: options.files). On
/// any error all threads stop and the first error is thrown. Throws Interrupted when progress->cancelled(). Calls
/// source.finish() and sink.finish() at the end. Besides `threads` that copy and write there are those that read
/// (ByteSource::pace).
ExecuteReport execute(const TransferPlan& plan, ByteSource& source, ByteSink& sink, const ExecuteOptions& options);

}  // namespace viaduct::bridge
