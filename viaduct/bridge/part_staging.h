// PartStaging: the staging of a conversion that several runs make together, on one machine or on several with a
// shared file system. Each makes its own files; the one that is done last moves all into place.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "viaduct/bridge/part.h"
#include "viaduct/bridge/part_record.h"
#include "viaduct/bridge/staging_place.h"

namespace viaduct::bridge {

/// One part's hold of the staging folder. Whatever happens to the part, the folder stays until all are done.
class PartStaging {
 public:
  /// `agreed` is what all parts must have alike (PartRecord::agree). options.resume does not matter: a part goes on
  /// with what an earlier run of it left. Throws a UserError when the target cannot be written
  /// (StagingPlace::check_target), when the same part is being made, when an interrupted run without parts or
  /// another conversion's parts are there for this place, or when `agreed` differs.
  PartStaging(StagingPlace place, const Part& part, const StagingOptions& options, const Json& agreed,
              Progress* progress);
  PartStaging(const PartStaging&) = delete;
  ~PartStaging();

  /// The staging folder, which the parts share.
  const Path& path() const { return place_.path(); }
  /// The target is made as if it were this folder.
  const Path& content() const { return place_.content(); }
  /// The part's own journal; a name in path().
  std::string journal_name() const;
  /// The part's own file of measured scales; a name in path().
  std::string scales_name() const;
  /// This part was done by an earlier run.
  bool was_done() const { return was_done_; }
  /// An earlier run of this part was interrupted.
  bool resumed() const { return resumed_; }

  /// This part's files are written and synced. Hashes as PartRecord has them.
  void add_done(const std::vector<uint64_t>& hashes);
  /// The parts that are not done, as far as this run knows.
  const std::vector<int>& missing() const { return missing_; }
  /// All parts are done: this run alone may complete content() and then must commit. False, with none missing, when
  /// the target is in place already.
  bool is_last() const { return missing_.empty() && !in_place_; }
  /// PartRecord::hashes_of; for the last part, which wants all of them.
  const std::vector<uint64_t>& hashes_of(int part) const { return record_->hashes_of(part); }
  /// Moves everything into place and removes the staging folder.
  void commit();

 private:
  bool open(const Json& agreed);
  void finish();
  void refuse_others() const;
  void lock_part();
  void look_at_parts();

  StagingPlace place_;
  Part part_;
  StagingOptions options_;
  Progress* progress_;
  int lock_ = -1;  // of the folder, shared with the other parts of this machine
  std::optional<PartRecord> record_;
  File part_lock_;
  bool was_done_ = false, resumed_ = false, in_place_ = false;
  std::vector<int> missing_;
};

}  // namespace viaduct::bridge
