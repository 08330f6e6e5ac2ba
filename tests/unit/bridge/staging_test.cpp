// Staging and journal: output appears whole or not at all, and what an interrupted run made is believed only when
// it is there.
#include "viaduct/bridge/staging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/bridge/random_plan.h"
#include "viaduct/bridge/executor.h"
#include "viaduct/bridge/journal.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

class StagingTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = Path(testing::TempDir()) / fmt::format("viaduct-staging-{}", ::getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::vector<std::string> names(const Path& folder) {
    std::vector<std::string> all;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) all.push_back(entry.path().filename());
    std::sort(all.begin(), all.end());
    return all;
  }
  // What a conversion of iteration 0 leaves in its staging folder.
  void write_iteration(const Staging& staging, std::string_view content) {
    fs::create_directories(staging.path() / "iter_0000000");
    write_file(staging.path() / "iter_0000000" / "common.pt", content);
    write_file(staging.path() / "latest_train_state.pt", content);
    write_file(staging.path() / "latest_checkpointed_iteration.txt", content);
    write_file(staging.path() / kJournalName, "");
  }

  Path folder_;
};

TEST_F(StagingTest, FolderAppearsWhole) {
  const Path target = folder_ / "new" / "model";
  {
    Staging staging = Staging::for_folder(target, {7, false, false, {}});
    EXPECT_FALSE(staging.resumed());
    EXPECT_EQ(staging.path(), folder_ / "new" / ".viaduct-partial-model-0000000000000007");
    write_file(staging.path() / "config.json", "{}");
    write_file(staging.path() / kJournalName, "x");
    EXPECT_FALSE(fs::exists(target));
    staging.commit();
  }
  EXPECT_EQ(names(folder_ / "new"), std::vector<std::string>{"model"});
  EXPECT_EQ(names(target), std::vector<std::string>{"config.json"});
  // An empty folder may stand there already.
  fs::create_directory(folder_ / "empty");
  Staging staging = Staging::for_folder(folder_ / "empty", {7, false, false, {}});
  write_file(staging.path() / "config.json", "{}");
  staging.commit();
  EXPECT_EQ(names(folder_), (std::vector<std::string>{"empty", "new"}));
}

TEST_F(StagingTest, DiscardLeavesNothing) {
  Staging staging = Staging::for_folder(folder_ / "a/b/model", {1, false, false, {}});
  write_file(staging.path() / "config.json", "{}");
  staging.discard();
  EXPECT_TRUE(names(folder_).empty());
}

TEST_F(StagingTest, OverwriteReplacesOnlyCheckpoints) {
  const Path target = folder_ / "model";
  fs::create_directory(target);
  write_file(target / "letter.txt", "dear");
  EXPECT_THAT(
      [&] {
        Staging::for_folder(target, {1, false, false, {}});
      },
      ThrowsMessage<UserError>(HasSubstr("exists already")));
  EXPECT_THAT(
      [&] {
        Staging::for_folder(target, {1, true, false, {}});
      },
      ThrowsMessage<UserError>(HasSubstr("holds no checkpoint")));
  write_file(target / "model.safetensors", "old");
  EXPECT_THAT(
      [&] {
        Staging::for_folder(target, {1, true, false, {target / "model.safetensors"}});
      },
      ThrowsMessage<UserError>(HasSubstr("model.safetensors, which is read for it")));
  // A link to it stays a link.
  fs::create_directory_symlink(target, folder_ / "link");
  Staging staging = Staging::for_folder(folder_ / "link", {1, true, false, {folder_ / "model.safetensors"}});
  write_file(staging.path() / "config.json", "{}");
  EXPECT_EQ(read_text_file(target / "model.safetensors"), "old");
  staging.commit();
  EXPECT_EQ(names(target), std::vector<std::string>{"config.json"});
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  EXPECT_EQ(names(folder_), (std::vector<std::string>{"link", "model"}));
  write_file(folder_ / "file", "");
  EXPECT_THAT(
      [&] {
        Staging::for_folder(folder_ / "file", {1, true, false, {}});
      },
      ThrowsMessage<UserError>(HasSubstr("is not a folder")));
}

TEST_F(StagingTest, IterationBesideOthers) {
  fs::create_directories(folder_ / "iter_0000005");
  write_file(folder_ / "iter_0000005" / "common.pt", "five");
  {
    Staging staging = Staging::for_iteration(folder_, "iter_0000000", {2, false, false, {}});
    write_iteration(staging, "one");
    staging.commit();
  }
  EXPECT_EQ(names(folder_),
            (std::vector<std::string>{"iter_0000000", "iter_0000005", "latest_checkpointed_iteration.txt",
                                      "latest_train_state.pt"}));
  EXPECT_THAT(
      [&] {
        Staging::for_iteration(folder_, "iter_0000000", {2, false, false, {}});
      },
      ThrowsMessage<UserError>(HasSubstr("exists already")));
  Staging staging = Staging::for_iteration(folder_, "iter_0000000", {2, true, false, {}});
  write_iteration(staging, "two");
  staging.commit();
  EXPECT_EQ(read_text_file(folder_ / "iter_0000000" / "common.pt"), "two");
  EXPECT_EQ(read_text_file(folder_ / "latest_checkpointed_iteration.txt"), "two");
  EXPECT_EQ(read_text_file(folder_ / "iter_0000005" / "common.pt"), "five");
  EXPECT_EQ(names(folder_).size(), 4u);
}

TEST_F(StagingTest, InterruptedRunIsResumedOrStartedAnew) {
  const Path target = folder_ / "model";
  const auto leave = [&](uint64_t hash) {
    Staging staging = Staging::for_folder(target, {hash, true, false, {}});
    write_file(staging.path() / "made", "half");
    write_file(staging.path() / kJournalName, "");
    return staging.path();
  };
  const Path left = leave(1);
  EXPECT_THAT(
      [&] {
        Staging::for_folder(target, {1, false, false, {}});
      },
      ThrowsMessage<UserError>(AllOf(HasSubstr("--resume"), HasSubstr("--overwrite"), HasSubstr(left.string()))));
  EXPECT_THAT(
      [&] {
        Staging::for_folder(target, {2, false, true, {}});
      },
      ThrowsMessage<UserError>(HasSubstr("another conversion")));
  {
    const Staging staging = Staging::for_folder(target, {1, false, true, {}});
    EXPECT_TRUE(staging.resumed());
    EXPECT_EQ(read_text_file(staging.path() / "made"), "half");
    // Nobody else may come in.
    for (const StagingOptions& options : {StagingOptions{1, false, true, {}}, StagingOptions{1, true, false, {}},
                                          StagingOptions{2, true, false, {}}})
      EXPECT_THAT([&] { Staging::for_folder(target, options); }, ThrowsMessage<UserError>(HasSubstr("in use")));
  }
  // The staging of a folder whose name only begins alike is not touched.
  const Path other = [&] {
    const Staging staging = Staging::for_folder(folder_ / "model-2", {1, false, false, {}});
    return staging.path();
  }();
  {
    const Staging staging = Staging::for_folder(target, {1, true, false, {}});
    EXPECT_FALSE(staging.resumed());
    EXPECT_TRUE(fs::is_empty(staging.path()));
  }
  EXPECT_TRUE(fs::exists(other));
  // Without a journal nothing can be resumed; what lies there may be an old state that was being removed.
  write_file(left / "stale", "");
  const Staging staging = Staging::for_folder(target, {1, false, true, {}});
  EXPECT_FALSE(staging.resumed());
  EXPECT_TRUE(fs::is_empty(staging.path()));
}

TEST_F(StagingTest, StoppedBetweenTheMoves) {
  // The data of the new iteration is in place, its trackers are not: with and without an older iteration there.
  for (const bool older : {false, true}) {
    const Path root = folder_ / (older ? "older" : "fresh");
    if (older) {
      Staging staging = Staging::for_iteration(root, "iter_0000000", {1, false, false, {}});
      write_iteration(staging, "old");
      staging.commit();
    }
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      Staging staging = Staging::for_iteration(root, "iter_0000000", {3, true, false, {}});
      write_iteration(staging, "new");
      // A folder in the tracker's place stops the second move; _exit leaves all as a kill would.
      fs::remove(root / "latest_train_state.pt");
      fs::create_directory(root / "latest_train_state.pt");
      try {
        staging.commit();
      } catch (const SystemError&) {
        ::_exit(0);
      }
      ::_exit(1);
    }
    int status = 1;
    ::waitpid(child, &status, 0);
    ASSERT_EQ(status, 0);
    fs::remove(root / "latest_train_state.pt");
    EXPECT_EQ(read_text_file(root / "iter_0000000" / "common.pt"), "new");
    Staging staging = Staging::for_iteration(root, "iter_0000000", {3, older, true, {}});
    EXPECT_TRUE(staging.resumed());
    EXPECT_EQ(fs::exists(root / "iter_0000000"), older);
    if (older) {
      EXPECT_EQ(read_text_file(root / "iter_0000000" / "common.pt"), "old");
    }
    EXPECT_EQ(read_text_file(staging.path() / "iter_0000000" / "common.pt"), "new");
    write_iteration(staging, "newer");
    staging.commit();
    EXPECT_EQ(read_text_file(root / "iter_0000000" / "common.pt"), "newer");
    EXPECT_EQ(names(root).size(), 3u);
  }
}

TEST_F(StagingTest, PlacesThatCannotBeWritten) {
  write_file(folder_ / "file", "");
  EXPECT_THAT(
      [&] {
        Staging::for_folder(folder_ / "file" / "model", {1, false, false, {}});
      },
      ThrowsMessage<SystemError>(HasSubstr("file")));
  const Path locked = folder_ / "locked";
  fs::create_directory(locked);
  if (::geteuid() != 0) {
    ::chmod(locked.c_str(), 0555);
    EXPECT_THAT(
        [&] {
          Staging::for_folder(locked / "model", {1, false, false, {}});
        },
        ThrowsMessage<SystemError>(HasSubstr("cannot create the folder")));
    ::chmod(locked.c_str(), 0755);
    return;
  }
  // Root writes everywhere but on a read-only file system.
  if (::mount("none", locked.c_str(), "tmpfs", MS_RDONLY, "size=1m") != 0)
    GTEST_SKIP() << "may not mount a file system";
  EXPECT_THAT(
      [&] {
        Staging::for_folder(locked / "model", {1, false, false, {}});
      },
      ThrowsMessage<SystemError>(AllOf(HasSubstr("cannot create the folder"), HasSubstr("Read-only"))));
  ::umount(locked.c_str());
}

TEST_F(StagingTest, FullDiskIsFoundBeforeAnythingMoves) {
  const Path small = folder_ / "small";
  fs::create_directory(small);
  if (::mount("none", small.c_str(), "tmpfs", 0, "size=2m") != 0)
    GTEST_SKIP() << "may not mount a small file system";
  EXPECT_THAT(
      [&] {
        file_sink(small, {{"a", 1u << 20}, {"b", 4u << 20}});
      },
      ThrowsMessage<SystemError>(
          AllOf(HasSubstr("no room for 5.24 MB"), HasSubstr("2.10 MB were free"), HasSubstr("No space left"))));
  ::umount(small.c_str());
}

// A plan of some blocks with its source on the disk, made in a staging folder that is then its target.
class JournalTest : public StagingTest {
 protected:
  void SetUp() override {
    StagingTest::SetUp();
    PlanMaker maker(3);
    const uint32_t source = maker.add_source_file();
    const uint32_t file = maker.add_target_file();
    for (int64_t rows : {3000, 1, 500, 2500}) {
      const int32_t chunk = maker.add_source(source, DType::kBF16, {rows, 4096}, {}, 3);
      maker.add_literal(file, 77);
      maker.add_target(file, DType::kBF16, {rows, 4096});
      maker.add_whole_transfer(chunk);
      maker.add_crc_field(file, maker.plan().targets.back().tensor, 5, 6);
    }
    given_ = maker.finish();
    given_.plan.source_files[0] = folder_ / "source";
    write_file(given_.plan.source_files[0],
               {reinterpret_cast<const char*>(given_.sources[0].data()), given_.sources[0].size()});
  }

  // Runs the plan in the staging folder; returns how many bytes were read from the source.
  uint64_t make(const Path& staging, Progress* progress = nullptr) {
    const auto journal = open_journal(staging, staging, given_.plan, given_.plan.source_files);
    ExecuteOptions options;
    options.max_memory = 24u << 20;
    options.journal = journal.get();
    options.progress = progress;
    const auto source = file_source(given_.plan.source_files);
    const auto sink = file_sink(staging, given_.plan.target.files);
    return execute(given_.plan, *source, *sink, options).bytes_read;
  }
  void expect_made(const Path& staging) {
    const std::string text = read_text_file(staging / given_.plan.target.files[0].name);
    const Bytes expected = expected_files(given_)[0];
    ASSERT_EQ(text.size(), expected.size());
    EXPECT_EQ(std::memcmp(text.data(), expected.data(), text.size()), 0);
  }
  uint64_t blocks() const {
    uint64_t count = 0;
    for (const TargetChunk& chunk : given_.plan.targets) count += chunk.num_blocks();
    return count;
  }

  PlanWithSource given_;
};

TEST_F(JournalTest, FinishedBlocksAreNotMadeAgain) {
  EXPECT_GE(make(folder_), given_.sources[0].size());
  EXPECT_EQ(make(folder_), 0u);
  expect_made(folder_);
  // A torn record, a lost block and a damaged one are made again, and nothing else.
  const Path target = folder_ / given_.plan.target.files[0].name;
  fs::resize_file(folder_ / kJournalName, fs::file_size(folder_ / kJournalName) - 5);
  const File file = File::open(target, File::Mode::kWrite);
  const std::byte zero[1] = {};
  file.write(given_.plan.targets[0].byte_offset + kBlockBytes + 1000, zero);
  const uint64_t read = make(folder_);
  EXPECT_GT(read, 0u);
  EXPECT_LE(read, 3 * kBlockBytes);
  expect_made(folder_);
  // The target is gone although the journal says otherwise.
  fs::remove(target);
  EXPECT_GE(make(folder_), given_.sources[0].size());
  expect_made(folder_);
}

// However often a run is stopped: a journal that grew without end would at last not be believed.
TEST_F(JournalTest, ListsABlockOnceWhenItIsOpenedAgain) {
  make(folder_);
  const std::string journal = read_text_file(folder_ / kJournalName);
  constexpr size_t kHeader = 24;
  write_file(folder_ / kJournalName, journal + journal.substr(kHeader));
  EXPECT_EQ(make(folder_), 0u);
  EXPECT_EQ(fs::file_size(folder_ / kJournalName), journal.size());
  EXPECT_EQ(make(folder_), 0u);
  expect_made(folder_);
}

TEST_F(JournalTest, BelongsToOnePlanAndOneSource) {
  make(folder_);
  const std::string journal = read_text_file(folder_ / kJournalName);
  // The source has other bytes of the same length now.
  std::reverse(given_.sources[0].begin(), given_.sources[0].end());
  fs::last_write_time(folder_ / "source", fs::file_time_type::clock::now() - std::chrono::hours(1));
  const uint64_t size = given_.sources[0].size();
  EXPECT_GE(make(folder_), size);
  // Another plan of the same shapes.
  write_file(folder_ / kJournalName, journal);
  given_.plan.target.literals[0].bytes = std::string(77, 'x');
  EXPECT_GE(make(folder_), size);
  // Things that are no journal.
  for (const std::string& text :
       {std::string(), std::string(3, 'x'), std::string(1'000'000, 'x'), journal.substr(0, 20)}) {
    write_file(folder_ / kJournalName, text);
    EXPECT_GE(make(folder_), size);
  }
}

// Kills its process with the n-th block.
class Killing : public Progress {
 public:
  explicit Killing(uint64_t after) : left_(static_cast<int64_t>(after)) {}
  void begin(std::string_view, uint64_t) override {}
  void advance(uint64_t bytes) override {
    left_ -= static_cast<int64_t>(bytes);
    if (left_ <= 0) ::kill(::getpid(), SIGKILL);
  }
  void end() override {}

 private:
  std::atomic<int64_t> left_;
};

TEST_F(JournalTest, KilledAnywhereItIsCompleted) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a forked child may not start threads under the thread sanitizer";
#endif
  std::mt19937 random(5);
  for (int round = 0; round < 6; ++round) {
    fs::remove_all(folder_ / "staged");
    fs::create_directory(folder_ / "staged");
    for (int kills = 0; kills < 2; ++kills) {
      const uint64_t after = random() % given_.plan.bytes_of_data();
      const pid_t child = ::fork();
      ASSERT_GE(child, 0);
      if (child == 0) {
        Killing progress(after);
        make(folder_ / "staged", &progress);
        ::_exit(0);
      }
      int status = 0;
      ::waitpid(child, &status, 0);
      EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    make(folder_ / "staged");
    expect_made(folder_ / "staged");
  }
}

}  // namespace
}  // namespace viaduct::bridge
