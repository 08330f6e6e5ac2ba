#include "viaduct/bridge/part_staging.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "viaduct/bridge/journal.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {

namespace fs = std::filesystem;

namespace {

[[noreturn]] void refuse_run_without_parts(const Path& folder) {
  throw UserError(
      fmt::format("{} is left of an interrupted run without --part. Complete it without --part and with "
                  "--resume, or remove that folder",
                  folder.string()));
}

}  // namespace

PartStaging::PartStaging(StagingPlace place, const Part& part, const StagingOptions& options, const Json& agreed,
                         Progress* progress)
    : place_(std::move(place)), part_(part), options_(options), progress_(progress) {
  const auto close_folder = [this] {
    if (lock_ >= 0) ::close(std::exchange(lock_, -1));
  };
  try {
    // Again when the last part has removed the folder in the meantime.
    with_system_errors([&] {
      while (!open(agreed)) close_folder();
    });
  } catch (...) {
    close_folder();
    throw;
  }
}

PartStaging::~PartStaging() {
  if (lock_ >= 0) ::close(lock_);
}

std::string PartStaging::journal_name() const { return fmt::format("{}-{}", kJournalName, part_.number); }
std::string PartStaging::scales_name() const { return fmt::format("measured-{}.scales", part_.number); }

// What is there of other conversions into the same place is never removed by a part: other machines may be at it.
void PartStaging::refuse_others() const {
  for (const Path& folder : place_.staging_folders()) {
    if (folder == path() || is_old(folder)) continue;
    VIADUCT_USER_CHECK(!PartRecord::is_in(folder),
                       "{} holds {} of another conversion into this place, which {} does not belong to. Give all "
                       "parts the same source, options and number of parts; to give up what is there, remove that "
                       "folder",
                       folder.string(), PartRecord::describe(folder), part_.text());
    const int lock = lock_folder(folder, true);
    if (lock < 0) throw_in_use(folder);
    ::close(lock);
    refuse_run_without_parts(folder);
  }
}

// False when the folder is gone, or was made anew, and this has to begin once more.
bool PartStaging::open(const Json& agreed) {
  refuse_others();
  // Nothing is made for a run that is refused. With the folder there this waits for the record: the last part may
  // be moving things right now.
  if (!fs::exists(path())) place_.check_target(options_);
  create_folder(path());
  try {
    lock_ = lock_folder(path(), true);
    if (lock_ < 0) throw_in_use(path());
    // In this order: the record is the first thing that a part makes.
    std::error_code error;
    const bool others = !fs::is_empty(path(), error) && !PartRecord::is_in(path());
    if (!is_at(lock_, path())) return false;
    if (others) refuse_run_without_parts(path());
    record_.emplace(path());
  } catch (const SystemError& error) {
    if (error.error_number() == ENOENT) return false;
    throw;
  }
  const bool there = record_->lock(progress_);
  if (record_->is_committed() || (there && place_.is_moved())) {
    // Another run of this part has waited for the end, or the last part was stopped shortly before it.
    if (there) finish();
    was_done_ = in_place_ = true;
    return true;
  }
  if (!there) return false;
  record_->agree(agreed);
  place_.check_target(options_);
  lock_part();
  was_done_ = record_->is_done(part_.number);
  resumed_ = fs::exists(path() / journal_name());
  look_at_parts();
  return true;
}

void PartStaging::lock_part() {
  File lock = File::open(PartRecord::lock_file(path(), part_.number), File::Mode::kWrite);
  if (!try_lock(lock)) {
    std::string who(256, '\0');
    who.resize(lock.read_some(0, std::as_writable_bytes(std::span(who))));
    throw UserError(fmt::format("{} is being made already, by {}. Wait until that is done, or run another part",
                                part_.text(), who.empty() ? "another process" : who));
  }
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  const std::string own = fmt::format("process {} on {}", ::getpid(), host.data());
  lock.resize(0);
  lock.write(0, std::as_bytes(std::span(own)));
  part_lock_ = std::move(lock);
}

// With all parts done the record stays locked: this run completes the target.
void PartStaging::look_at_parts() {
  missing_ = record_->missing();
  if (!missing_.empty()) record_->unlock();
}

void PartStaging::add_done(const std::vector<uint64_t>& hashes) {
  VIADUCT_USER_CHECK(record_->lock(progress_), "{} was removed while {} was made; run it again", path().string(),
                     part_.text());
  record_->add_done(part_.number, hashes);
  look_at_parts();
}

void PartStaging::commit() {
  with_system_errors([this] {
    // Something may have come to the target since this part began.
    place_.check_target(options_);
    place_.put_in_place();
    finish();
  });
}

// With the record locked. Who opened it before sees that all is done, and that it is no longer in its place.
void PartStaging::finish() {
  place_.finish_moving();
  if (!record_->is_committed()) record_->add_committed();
  const Path old = place_.set_aside();
  // A network file system would not remove what is open.
  record_.reset();
  part_lock_.close();
  ::close(std::exchange(lock_, -1));
  remove_tree(old);
}

}  // namespace viaduct::bridge
