// What the parts of a conversion tell each other: a file in their staging folder that one of them at a time may
// use. Everything is in this file and read under its lock, since that is what a shared file system keeps coherent.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/bridge/part.h"
#include "viaduct/core/file.h"
#include "viaduct/core/json.h"
#include "viaduct/core/progress.h"

namespace viaduct::bridge {

/// Locks an open file for this process alone, until it is closed; false when another has it. UserError when its
/// file system has no locks.
bool try_lock(const File& file);

/// Does this open file, or folder, still lie there?
bool is_at(int fd, const Path& path);

/// JSON lines: first what all parts must agree on, then one line for each part that is done, with the hashes of
/// its blocks, at last that the target is in place. A torn line at the end counts as not written.
class PartRecord {
 public:
  /// Does this staging folder hold the work of parts?
  static bool is_in(const Path& staging);
  /// "2 of 4 parts (1, 3)" that are done, for messages.
  static std::string describe(const Path& staging);
  /// True when a part is being made in this staging folder, on whatever machine.
  static bool in_use(const Path& staging);
  /// The file that is locked while a part is made.
  static Path lock_file(const Path& staging, int part);

  /// Opens the record in a staging folder, or begins one.
  explicit PartRecord(const Path& staging, File::Mode mode = File::Mode::kWrite);

  /// Waits until no other process uses the record, and reads it. False when it is no longer in its folder: then
  /// only is_committed() tells something.
  bool lock(Progress* progress);
  /// Lets other processes use it.
  void unlock();

  // Everything below wants the lock.

  /// What all parts must agree on: sets it, or compares. UserError that names what differs.
  void agree(const Json& wanted);
  /// Is this part done? Parts count from 1.
  bool is_done(int part) const { return done_.contains(part); }
  /// The parts that are not done, in rising order.
  std::vector<int> missing() const;
  /// Is the target in place?
  bool is_committed() const { return committed_; }
  /// Hashes of the blocks of a part's files, in the plan's order.
  void add_done(int part, const std::vector<uint64_t>& hashes);
  /// The hashes that add_done was given for a part that is done.
  const std::vector<uint64_t>& hashes_of(int part) const { return done_.at(part); }
  /// The target is in place.
  void add_committed();

 private:
  void read();
  void read_line(std::string_view line);
  void append(const Json& line);

  File file_;
  Path path_;
  std::optional<Json> agreed_;
  std::map<int, std::vector<uint64_t>> done_;
  bool committed_ = false;
  uint64_t end_ = 0;  // of the last good line
};

}  // namespace viaduct::bridge
