// Parts: how a plan's files are shared, and what the runs of one conversion tell each other in their staging
// folder.
#include "viaduct/bridge/part.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>

#include "viaduct/bridge/part_staging.h"
#include "viaduct/bridge/staging.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::ThrowsMessage;

TransferPlan plan_of(const std::vector<uint64_t>& sizes) {
  TransferPlan plan;
  for (const uint64_t size : sizes) plan.target.files.push_back({"f", size});
  return plan;
}

TEST(Parts, SharesAreBalanced) {
  EXPECT_THAT(share_files(plan_of({1, 5, 3, 3}), 2), ElementsAre(1, 1, 2, 2));
  EXPECT_THAT(share_files(plan_of({4, 4, 4, 4}), 4), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(share_files(plan_of({7}), 3), ElementsAre(1));
  EXPECT_THAT(files_of(plan_of({1, 5, 3, 3}), {1, 2}), ElementsAre(true, true, false, false));
  EXPECT_EQ(plan_of({1, 5, 3, 3}).bytes_to_write(files_of(plan_of({1, 5, 3, 3}), {2, 2})), 6u);
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<uint64_t> sizes(random() % 40);
    for (uint64_t& size : sizes) size = random() % 1000;
    const int parts = static_cast<int>(random() % 7) + 1;
    const std::vector<int> part_of = share_files(plan_of(sizes), parts);
    std::vector<uint64_t> bytes(static_cast<size_t>(parts));
    for (size_t i = 0; i < sizes.size(); ++i) bytes.at(static_cast<size_t>(part_of[i] - 1)) += sizes[i];
    const uint64_t largest = sizes.empty() ? 0 : *std::max_element(sizes.begin(), sizes.end());
    const auto [least, most] = std::minmax_element(bytes.begin(), bytes.end());
    EXPECT_LE(*most - *least, largest);
  }
}

class PartStagingTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = Path(testing::TempDir()) / fmt::format("viaduct-parts-{}", ::getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static Json facts(int parts, const std::string& source = "aa") {
    return Json::object({{"plan", Json("1")},
                         {"parts", Json(parts)},
                         {"source file", Json::array({Json::array({Json("model"), Json(5), Json(source)})})}});
  }
  std::unique_ptr<PartStaging> open(const Part& part, bool overwrite = false, uint64_t hash = 7) {
    return open(part, facts(part.of), overwrite, hash);
  }
  std::unique_ptr<PartStaging> open(const Part& part, const Json& agreed, bool overwrite = false,
                                    uint64_t hash = 7) {
    const StagingPlace place = iteration_ ? StagingPlace::of_iteration(target(), "iter_0000000", hash)
                                          : StagingPlace::of_folder(target(), hash, true);
    return std::make_unique<PartStaging>(place, part, StagingOptions{hash, overwrite, false, {}}, agreed, nullptr);
  }
  Path target() const { return folder_ / "model"; }
  Path made() const { return iteration_ ? target() / "iter_0000000" : target(); }
  // What a part writes.
  void write_data(const PartStaging& staging, int part) const {
    const Path data = iteration_ ? staging.content() / "iter_0000000" : staging.content();
    fs::create_directories(data);
    write_file(data / fmt::format("{}.safetensors", part), std::to_string(part));
  }
  // What the last part writes.
  void write_index(const PartStaging& staging, std::string_view text) const {
    write_file((iteration_ ? staging.content() / "iter_0000000" : staging.content()) / "config.json", text);
    if (!iteration_) return;
    write_file(staging.content() / "latest_train_state.pt", text);
    write_file(staging.content() / "latest_checkpointed_iteration.txt", text);
  }
  // A whole run of a part; true when it completed the target.
  bool make(const Part& part, bool overwrite = false, std::string_view text = "new") {
    const auto staging = open(part, overwrite);
    if (!staging->was_done()) {
      write_data(*staging, part.number);
      staging->add_done({uint64_t{1} << part.number, 99});
    }
    if (!staging->is_last()) return false;
    write_index(*staging, text);
    staging->commit();
    return true;
  }
  // Does that in a process of its own, which ends as a kill would leave it.
  template <class Work>
  void in_killed_process(Work&& work) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      work();
      ::_exit(0);
    }
    int status = 1;
    ::waitpid(child, &status, 0);
    ASSERT_EQ(status, 0);
  }
  template <class Work>
  static void expect_refused(Work&& work, const std::vector<std::string>& says) {
    try {
      work();
      ADD_FAILURE() << "not refused: " << says[0];
    } catch (const UserError& error) {
      for (const std::string& text : says) EXPECT_THAT(error.what(), HasSubstr(text));
    }
  }
  std::vector<std::string> names(const Path& folder) const {
    std::vector<std::string> all;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) all.push_back(entry.path().filename());
    std::sort(all.begin(), all.end());
    return all;
  }

  Path folder_;
  bool iteration_ = false;
};

TEST_F(PartStagingTest, TheLastPartCompletes) {
  for (const bool iteration : {false, true}) {
    iteration_ = iteration;
    fs::remove_all(target());
    EXPECT_FALSE(make({2, 3}));
    EXPECT_FALSE(make({3, 3}));
    EXPECT_FALSE(fs::exists(made()));
    {
      const auto again = open({3, 3});
      EXPECT_TRUE(again->was_done());
      EXPECT_THAT(again->missing(), ElementsAre(1));
    }
    EXPECT_TRUE(make({1, 3}));
    EXPECT_THAT(names(made()), ElementsAre("1.safetensors", "2.safetensors", "3.safetensors", "config.json"));
    if (iteration) {
      EXPECT_EQ(names(target()).size(), 3u);
    } else {
      EXPECT_THAT(names(folder_), ElementsAre("model"));
    }
    expect_refused([&] { open({3, 3}); }, {"exists already"});
  }
}

TEST_F(PartStagingTest, HashesOfAllPartsReachTheLast) {
  make({2, 2});
  const auto last = open({1, 2});
  write_data(*last, 1);
  last->add_done({5, 6, ~uint64_t{0}});
  ASSERT_TRUE(last->is_last());
  EXPECT_THAT(last->hashes_of(1), ElementsAre(5, 6, ~uint64_t{0}));
  EXPECT_THAT(last->hashes_of(2), ElementsAre(4, 99));
}

TEST_F(PartStagingTest, OverwriteReplacesAtTheCommit) {
  for (const bool iteration : {false, true}) {
    iteration_ = iteration;
    fs::remove_all(target());
    make({1, 1}, false, "old");
    expect_refused([&] { open({1, 2}); }, {"exists already", "--overwrite"});
    EXPECT_FALSE(make({1, 2}, true));
    EXPECT_EQ(read_text_file(made() / "config.json"), "old");
    // One that does not give it is refused, and the work of the others stays.
    expect_refused([&] { open({2, 2}); }, {"exists already", "--overwrite"});
    EXPECT_TRUE(make({2, 2}, true));
    EXPECT_EQ(read_text_file(made() / "config.json"), "new");
    EXPECT_THAT(names(made()), ElementsAre("1.safetensors", "2.safetensors", "config.json"));
  }
}

TEST_F(PartStagingTest, SomethingCameToTheTarget) {
  make({1, 2});
  const auto last = open({2, 2});
  last->add_done({});
  write_index(*last, "new");
  fs::create_directories(target());
  write_file(target() / "config.json", "other");
  expect_refused([&] { last->commit(); }, {"exists already"});
  EXPECT_EQ(read_text_file(target() / "config.json"), "other");
}

TEST_F(PartStagingTest, OneRunAPart) {
  const auto staging = open({2, 4});
  expect_refused([&] { open({2, 4}); }, {"part 2 of 4 is being made already", std::to_string(::getpid())});
  const auto other = open({3, 4});
  EXPECT_THAT(other->missing(), ElementsAre(1, 2, 3, 4));
}

TEST_F(PartStagingTest, WhatDoesNotBelongIsRefused) {
  make({1, 2});
  const Path staged = open({2, 2})->path();
  // Another plan, another number of parts, another source.
  expect_refused(
      [&] {
        open({2, 2}, true, 8);
      },
      {staged.string(), "1 of 2 parts (1)", "another conversion", "remove that folder"});
  expect_refused([&] { open({2, 3}); }, {"the parts", "found 3, expected 2", "remove that folder"});
  expect_refused([&] { open({2, 2}, facts(2, "bb")); }, {"the source file model", "bb", "aa", staged.string()});
  EXPECT_TRUE(fs::exists(staged));
  // A run without parts takes it only when it is told to start anew, and never while a part is made.
  const auto plain = [&](bool overwrite, bool resume, uint64_t hash) {
    return Staging::for_folder(target(), {hash, overwrite, resume, {}});
  };
  for (const uint64_t hash : {7, 8}) {
    expect_refused([&] { plain(false, false, hash); }, {"1 of 2 parts (1)", "--overwrite"});
    expect_refused([&] { plain(false, true, hash); }, {"1 of 2 parts (1)", "--overwrite"});
  }
  expect_refused([&] { plain(true, true, 7); }, {"1 of 2 parts (1)", "--part"});
  {
    const auto running = open({2, 2});
    expect_refused([&] { plain(true, false, 7); }, {"in use"});
    expect_refused([&] { plain(true, false, 8); }, {"in use"});
  }
  {
    // As seen from another machine, where the folder's own lock is not known.
    const File part = File::open(PartRecord::lock_file(staged, 2), File::Mode::kWrite);
    ASSERT_TRUE(try_lock(part));
    expect_refused([&] { plain(true, false, 8); }, {"in use"});
  }
  EXPECT_THAT(names(staged), testing::Contains("viaduct-parts"));
  {
    const Staging anew = plain(true, false, 8);
    EXPECT_FALSE(fs::exists(staged));
    expect_refused([&] { open({1, 2}); }, {"in use"});
    expect_refused([&] { open({1, 2}, false, 8); }, {"in use"});
  }
  // And what a run without parts has left no part removes.
  for (const bool overwrite : {false, true}) {
    expect_refused([&] { open({1, 2}, overwrite); }, {"interrupted run without --part", "remove that folder"});
    write_file(folder_ / ".viaduct-partial-model-0000000000000008/viaduct-journal", "x");
    expect_refused([&] { open({1, 2}, overwrite, 8); }, {"interrupted run without --part", "--resume"});
  }
}

TEST_F(PartStagingTest, KilledBeforeTheCommit) {
  for (const bool iteration : {false, true}) {
    iteration_ = iteration;
    fs::remove_all(target());
    make({1, 2});
    in_killed_process([&] {
      const auto last = open({2, 2});
      write_data(*last, 2);
      last->add_done({});
      if (!last->is_last()) ::_exit(1);
      ::_exit(0);
    });
    EXPECT_FALSE(fs::exists(made()));
    // Any part completes it.
    EXPECT_TRUE(make({1, 2}));
    EXPECT_THAT(names(made()), ElementsAre("1.safetensors", "2.safetensors", "config.json"));
  }
}

TEST_F(PartStagingTest, KilledBetweenTheMoves) {
  iteration_ = true;
  for (const bool older : {false, true}) {
    fs::remove_all(target());
    if (older) make({1, 1}, false, "old");
    make({1, 2}, older);
    fs::remove(target() / "latest_train_state.pt");
    fs::create_directory(target() / "latest_train_state.pt");
    in_killed_process([&] {
      const auto last = open({2, 2}, older);
      write_data(*last, 2);
      last->add_done({});
      write_index(*last, "new");
      try {
        last->commit();
      } catch (const SystemError&) {
        ::_exit(0);
      }
      ::_exit(1);
    });
    fs::remove(target() / "latest_train_state.pt");
    EXPECT_EQ(read_text_file(made() / "config.json"), "new");
    // Any part does the rest, and does not ask what may be replaced: it is.
    const auto next = open({1, 2});
    EXPECT_TRUE(next->was_done());
    EXPECT_FALSE(next->is_last());
    EXPECT_THAT(next->missing(), IsEmpty());
    EXPECT_EQ(read_text_file(made() / "config.json"), "new");
    EXPECT_EQ(read_text_file(target() / "latest_checkpointed_iteration.txt"), "new");
    EXPECT_EQ(names(target()).size(), 3u);
  }
}

TEST_F(PartStagingTest, KilledBeforeTheFolderWasRemoved) {
  make({1, 2});
  in_killed_process([&] {
    const auto last = open({2, 2});
    last->add_done({});
    write_index(*last, "new");
    fs::rename(last->content(), target());
    PartRecord record(last->path());
    last.get()->~PartStaging();  // gives up its locks
    if (record.lock(nullptr)) record.add_committed();
    ::_exit(0);
  });
  EXPECT_THAT(open({1, 2})->missing(), IsEmpty());
  expect_refused([&] { open({1, 2}); }, {"exists already"});
  EXPECT_THAT(names(folder_), ElementsAre("model"));
  EXPECT_THAT(names(target()), ElementsAre("1.safetensors", "config.json"));
}

TEST_F(PartStagingTest, TornRecordsAreMadeAgain) {
  make({1, 3});
  make({2, 3});
  const Path record = open({3, 3})->path() / "viaduct-parts";
  const std::string text = read_text_file(record);
  for (const size_t cut : {size_t{1}, size_t{20}}) {
    write_file(record, text.substr(0, text.size() - cut));
    EXPECT_THAT(open({3, 3})->missing(), ElementsAre(2, 3));
    make({2, 3});
    EXPECT_EQ(read_text_file(record), text);
  }
  std::string damaged = text;
  damaged[damaged.size() - 40] ^= 1;
  write_file(record, damaged);
  EXPECT_THAT(open({2, 3})->missing(), ElementsAre(2, 3));
  // Not even the first line.
  write_file(record, text.substr(0, 10));
  EXPECT_THAT(open({3, 3})->missing(), ElementsAre(1, 2, 3));
}

TEST_F(PartStagingTest, DamagedRecordsAreRefusedOrMadeAgain) {
  make({1, 3});
  make({2, 3});
  const Path staged = open({3, 3})->path();
  const std::string text = read_text_file(staged / "viaduct-parts");
  std::mt19937 random(11);
  for (int round = 0; round < 150; ++round) {
    std::string damaged = text;
    for (unsigned i = random() % 4 + 1; i > 0; --i) {
      if (random() % 4 == 0) {
        damaged.insert(random() % damaged.size(), std::string(random() % 3, "{\n\"0"[random() % 4]));
      } else {
        damaged[random() % damaged.size()] = static_cast<char>(random());
      }
    }
    write_file(staged / "viaduct-parts", damaged);
    EXPECT_THAT(PartRecord::describe(staged), HasSubstr("parts"));
    try {
      const auto staging = open({3, 3});
      for (const int missing : staging->missing()) EXPECT_THAT(missing, AllOf(testing::Ge(1), testing::Le(3)));
    } catch (const UserError& error) {
      EXPECT_THAT(error.what(), HasSubstr(staged.string()));
    }
  }
}

TEST_F(PartStagingTest, ManyAtOnce) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "many processes";
#endif
  constexpr int kParts = 8;
  for (int round = 0; round < 10; ++round) {
    iteration_ = round % 2 == 0;
    fs::remove_all(target());
    std::vector<pid_t> children;
    for (int part = 1; part <= kParts; ++part) {
      children.push_back(::fork());
      if (children.back() != 0) continue;
      try {
        ::_exit(make({part, kParts}) ? 10 : 0);
      } catch (const std::exception& error) {
        fmt::print(stderr, "{}\n", error.what());
        ::_exit(1);
      }
    }
    int completed = 0;
    for (const pid_t child : children) {
      int status = 1;
      ::waitpid(child, &status, 0);
      ASSERT_TRUE(WIFEXITED(status));
      ASSERT_NE(WEXITSTATUS(status), 1);
      completed += WEXITSTATUS(status) == 10;
    }
    EXPECT_EQ(completed, 1);
    EXPECT_EQ(names(made()).size(), kParts + 1u);
    EXPECT_EQ(names(iteration_ ? target() : folder_).size(), iteration_ ? 3u : 1u);
  }
}

}  // namespace
}  // namespace viaduct::bridge
