#include "viaduct/bridge/part_record.h"

#include <fmt/ranges.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <thread>

#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"

namespace viaduct::bridge {

namespace fs = std::filesystem;

namespace {

constexpr const char* kRecordName = "viaduct-parts";
constexpr uint64_t kMostBytes = uint64_t{1} << 30;
constexpr size_t kDigits = 16;  // of a hash

std::string hash_texts(const std::vector<uint64_t>& hashes) {
  std::string text;
  text.reserve(hashes.size() * kDigits);
  for (const uint64_t hash : hashes) fmt::format_to(std::back_inserter(text), "{:016x}", hash);
  return text;
}

std::vector<uint64_t> hashes_from(std::string_view text) {
  std::vector<uint64_t> hashes(text.size() / kDigits);
  for (size_t i = 0; i < hashes.size(); ++i)
    std::from_chars(text.data() + i * kDigits, text.data() + (i + 1) * kDigits, hashes[i], 16);
  return hashes;
}

std::string check_of(int part, std::string_view hashes) {
  return fmt::format("{:016x}", xxh3_64(fmt::format("{} {}", part, hashes)));
}

// What two lists of [name, facts ...] do not have alike: the name, and both entries.
struct Difference {
  std::string name, found, expected;
};

Difference first_difference(const Json& found, const Json& expected) {
  for (size_t i = 0; i < std::max(found.items().size(), expected.items().size()); ++i) {
    const Json* a = i < found.items().size() ? &found.items()[i] : nullptr;
    const Json* b = i < expected.items().size() ? &expected.items()[i] : nullptr;
    if (a && b && *a == *b) continue;
    return {(a ? a : b)->items().at(0).as_string(), a ? a->dump() : "none", b ? b->dump() : "none"};
  }
  return {};
}

}  // namespace

bool try_lock(const File& file) {
  while (::flock(file.fd(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno == EWOULDBLOCK) return false;
    VIADUCT_USER_CHECK(
        errno != ENOLCK && errno != ENOSYS && errno != EOPNOTSUPP,
        "{} cannot be locked: its file system has no locks between machines, which --part needs (for "
        "Lustre: mount it with -o flock). Use another file system, or convert without --part",
        file.path().string());
    throw_system(fmt::format("cannot lock {}", file.path().string()));
  }
  return true;
}

bool is_at(int fd, const Path& path) {
  struct stat own {
  }, there{};
  return ::fstat(fd, &own) == 0 && ::stat(path.c_str(), &there) == 0 && own.st_ino == there.st_ino;
}

bool PartRecord::is_in(const Path& staging) { return fs::exists(staging / kRecordName); }

Path PartRecord::lock_file(const Path& staging, int part) {
  return staging / fmt::format("viaduct-part-{}.lock", part);
}

std::string PartRecord::describe(const Path& staging) {
  PartRecord record(staging, File::Mode::kRead);
  record.read();
  if (!record.agreed_) return "the beginning of parts";
  std::vector<int> done;
  done.reserve(record.done_.size());
  for (const auto& [part, hashes] : record.done_) done.push_back(part);
  return fmt::format("{} of {} parts{}", done.size(), record.agreed_->at("parts").as_int(),
                     done.empty() ? "" : fmt::format(" ({})", fmt::join(done, ", ")));
}

bool PartRecord::in_use(const Path& staging) {
  if (!is_in(staging)) return false;
  for (const fs::directory_entry& entry : fs::directory_iterator(staging))
    if (entry.path().extension() == ".lock" && !try_lock(File::open(entry.path(), File::Mode::kWrite))) return true;
  return !try_lock(File::open(staging / kRecordName, File::Mode::kWrite));
}

PartRecord::PartRecord(const Path& staging, File::Mode mode)
    : file_(File::open(staging / kRecordName, mode)), path_(staging / kRecordName) {}

bool PartRecord::lock(Progress* progress) {
  try {
    while (!try_lock(file_)) {
      if (progress && progress->cancelled()) throw Interrupted("interrupted");
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  } catch (const SystemError& error) {
    if (error.error_number() == ESTALE) return false;
    throw;
  }
  read();
  // While this waited, the last part may have removed the folder.
  return is_at(file_.fd(), path_);
}

void PartRecord::unlock() { ::flock(file_.fd(), LOCK_UN); }

void PartRecord::read() {
  agreed_.reset();
  done_.clear();
  committed_ = false;
  end_ = 0;
  const uint64_t size = file_.size();
  VIADUCT_USER_CHECK(size <= kMostBytes, "{} has {} bytes; it is damaged. Remove the folder to start anew",
                     path_.string(), size);
  std::string text(size, '\0');
  text.resize(file_.read_some(0, std::as_writable_bytes(std::span(text))));
  for (size_t end = 0; (end = text.find('\n', end_)) != std::string::npos; end_ = end + 1) {
    try {
      read_line(std::string_view(text).substr(end_, end - end_));
    } catch (const UserError&) {
      return;  // of a write that a failure of power cut short; what it said is made again
    }
  }
}

void PartRecord::read_line(std::string_view line) {
  Json json = Json::parse(line, path_.string());
  if (!agreed_) {
    (void)json.at("parts").as_int();
    agreed_ = std::move(json);
  } else if (json.contains("committed")) {
    committed_ = true;
  } else {
    const auto part = static_cast<int>(json.at("part").as_int());
    const std::string& hashes = json.at("hashes").as_string();
    VIADUCT_USER_CHECK_EQ(check_of(part, hashes), json.at("check").as_string(), "a torn line");
    done_[part] = hashes_from(hashes);
  }
}

void PartRecord::append(const Json& line) {
  const std::string text = line.dump() + "\n";
  file_.resize(end_);
  file_.write(end_, std::as_bytes(std::span(text)));
  file_.sync();
  end_ += text.size();
}

void PartRecord::agree(const Json& wanted) {
  if (!agreed_) {
    append(wanted);
    agreed_ = wanted;
    return;
  }
  const auto refuse = [&](const std::string& what, const std::string& found, const std::string& expected) {
    throw UserError(fmt::format(
        "{} is not that of the parts in {} (found {}, expected {}). Give all parts the same source, options and "
        "paths; to start anew, remove that folder",
        what, path_.parent_path().string(), found, expected));
  };
  for (const auto& [key, value] : wanted.members()) {
    const Json* const known = agreed_->find(key);
    if (known && *known == value) continue;
    if (!known || !value.is_array())
      refuse(fmt::format("the {}", key), value.dump(), known ? known->dump() : "none");
    const Difference difference = first_difference(value, *known);
    refuse(fmt::format("the {} {}", key, difference.name), difference.found, difference.expected);
  }
}

std::vector<int> PartRecord::missing() const {
  std::vector<int> missing;
  for (int part = 1; part <= agreed_->at("parts").as_int(); ++part)
    if (!is_done(part)) missing.push_back(part);
  return missing;
}

void PartRecord::add_done(int part, const std::vector<uint64_t>& hashes) {
  const std::string text = hash_texts(hashes);
  Json line = Json::object();
  line.set("part", part);
  line.set("hashes", text);
  line.set("check", check_of(part, text));
  append(line);
  done_[part] = hashes;
}

void PartRecord::add_committed() {
  append(Json::object({{"committed", Json(true)}}));
  committed_ = true;
}

}  // namespace viaduct::bridge
