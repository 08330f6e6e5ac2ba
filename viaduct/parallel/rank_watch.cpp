#include "viaduct/parallel/rank_watch.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <map>

namespace viaduct::parallel {

namespace {

using Clock = std::chrono::steady_clock;

std::string key(std::string_view kind, int rank) { return fmt::format("{}/{}", kind, rank); }

std::string host_and_process() {
  char host[256] = {};
  if (gethostname(host, sizeof host - 1) != 0) throw_system("asking for the name of this host");
  return fmt::format("host {}, process {}", host, getpid());
}

// A sign of life is "COUNT WHAT THE RANK DOES".
std::string activity_of(const std::string& sign) {
  const size_t space = sign.find(' ');
  const std::string activity = space == std::string::npos ? "" : sign.substr(space + 1);
  return activity.empty() ? "outside of any operation" : "in " + activity;
}

double seconds(std::chrono::milliseconds time) { return static_cast<double>(time.count()) / 1000; }

}  // namespace

std::string first_line(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  std::string text = torch_error ? torch_error->what_without_backtrace() : error.what();
  text = text.substr(0, text.find('\n'));
  if (!text.empty() && text.front() == '[')  // "[.../gloo/transport/tcp/pair.cc:544] Connection closed"
    if (const size_t end = text.find("] "); end != std::string::npos) text = text.substr(end + 2);
  while (!text.empty() && (text.back() == '.' || text.back() == ' ')) text.pop_back();
  return text;
}

RankWatch::RankWatch(c10::intrusive_ptr<c10d::Store> store, int rank, int world_size, std::string store_host,
                     const WatchTimes& times)
    : store_(std::move(store)),
      rank_(rank),
      world_size_(world_size),
      store_host_(std::move(store_host)),
      times_(times) {}

RankWatch::~RankWatch() { stop(); }

void RankWatch::meet(std::chrono::milliseconds timeout) {
  try {
    meet_in_store(timeout);
  } catch (const c10::Error& error) {
    throw RankError(fmt::format("rank {} did not meet the others: the store of {} is gone ({})", rank_, store_host_,
                                first_line(error)));
  }
  neighbour_changed_ = Clock::now();
  thread_ = std::thread([this] { run(); });
}

void RankWatch::meet_in_store(std::chrono::milliseconds timeout) {
  const std::string sizes =
      store_->compareSet("world_size", "", fmt::format("{} as rank {} says", world_size_, rank_));
  VIADUCT_USER_CHECK(
      sizes.substr(0, sizes.find(' ')) == std::to_string(world_size_),
      "rank {} was told that there are {} ranks, but there are {}: start all processes with the same "
      "number of ranks",
      rank_, world_size_, sizes);
  const std::string mine = host_and_process();
  const std::string there = store_->compareSet(key("who", rank_), "", mine);
  VIADUCT_USER_CHECK(there == mine, "two processes call themselves rank {}: {} and {}; give each its own rank",
                     rank_, there, mine);
  std::vector<std::string> keys;
  for (int rank = 0; rank < world_size_; ++rank) keys.push_back(key("who", rank));
  try {
    store_->wait(keys, timeout);
  } catch (const c10::Error&) {
    std::vector<int> missing;
    for (int rank = 0; rank < world_size_; ++rank)
      if (!store_->check({keys[static_cast<size_t>(rank)]})) missing.push_back(rank);
    throw RankError(fmt::format("rank {} of {} waited {} s for rank{} {}, which did not start", rank_, world_size_,
                                seconds(timeout), missing.size() == 1 ? "" : "s", fmt::join(missing, ", ")));
  }
}

void RankWatch::doing(std::string activity) {
  const std::lock_guard lock(mutex_);
  activity_ = std::move(activity);
}

void RankWatch::check(std::string_view activity) const {
  if (!failed_) return;
  const std::lock_guard lock(mutex_);
  throw RankError(fmt::format("rank {} stops before {}: {}", rank_, activity, failure_));
}

void RankWatch::on_failure(std::function<void(const std::string&)> action) {
  const std::lock_guard lock(mutex_);
  actions_.push_back(std::move(action));
}

std::string RankWatch::read(const std::string& key) { return store_->check({key}) ? store_->get_to_str(key) : ""; }

std::string RankWatch::who(int rank) { return fmt::format("rank {} ({})", rank, read(key("who", rank))); }

void RankWatch::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    try {
      beat();
    } catch (const c10::Error& error) {
      act_on(fmt::format("the store of {} is gone ({})", store_host_, first_line(error)));
    }
    if (failed_) return;
    lock.lock();
    wake_.wait_for(lock, times_.beat, [this] { return stopping_; });
  }
}

void RankWatch::beat() {
  std::string sign;
  {
    const std::lock_guard lock(mutex_);
    sign = fmt::format("{} {}", ++beats_, activity_);
  }
  store_->set(key("beat", rank_), sign);
  look_at_neighbour();
  if (const std::string failure = read("failure"); !failure.empty()) act_on(failure);
}

// Every rank is looked at by one other, however many there are.
void RankWatch::look_at_neighbour() {
  const int neighbour = (rank_ + 1) % world_size_;
  if (neighbour == rank_) return;
  const std::string sign = read(key("beat", neighbour));
  if (sign != neighbour_sign_) {
    neighbour_sign_ = sign;
    neighbour_changed_ = Clock::now();
    return;
  }
  if (Clock::now() - neighbour_changed_ < times_.silence || store_->check({key("end", neighbour)})) return;
  store_->compareSet("failure", "",
                     fmt::format("{} is gone: no sign of life for {} s; it was last {}", who(neighbour),
                                 seconds(times_.silence), activity_of(sign)));
}

// The watch goes on no further: this rank ends, and its last sign stays. False when something was wrong already.
bool RankWatch::set_failure(const std::string& failure) {
  const std::lock_guard lock(mutex_);
  if (failed_) return false;
  failure_ = failure;
  failed_ = true;
  return true;
}

void RankWatch::act_on(const std::string& failure) {
  if (!set_failure(failure)) return;
  std::vector<std::function<void(const std::string&)>> actions;
  {
    const std::lock_guard lock(mutex_);
    actions.swap(actions_);
  }
  for (const auto& action : actions) action(failure);
}

// Who among `ranks` is to blame; empty when all of them live.
std::string RankWatch::blame(const std::vector<int>& ranks) {
  std::map<int, std::string> silent;
  for (const int rank : ranks)
    if (rank != rank_) silent[rank] = read(key("beat", rank));
  std::map<int, std::string> once;    // one more sign: it may have been on its way when the rank died
  std::map<int, std::string> living;  // two
  const auto start = Clock::now();
  while (!silent.empty() && Clock::now() - start < times_.suspect) {
    if (const std::string failure = read("failure"); !failure.empty()) return failure;
    for (auto it = silent.begin(); it != silent.end();) {
      const auto& [rank, before] = *it;
      const std::string end = read(key("end", rank));
      if (!end.empty()) return fmt::format("{} {}", who(rank), end);
      const std::string now = read(key("beat", rank));
      const bool lives = now != before && !once.emplace(rank, now).second && now != once[rank];
      if (lives) living[rank] = now;
      it = lives ? silent.erase(it) : std::next(it);
    }
    std::this_thread::sleep_for(
        std::min<std::chrono::milliseconds>(times_.beat / 5, std::chrono::milliseconds(100)));
  }
  std::vector<std::string> gone;
  for (const auto& [rank, sign] : silent)
    gone.push_back(fmt::format("{} is gone: no sign of life for {} s; it was last {}", who(rank),
                               seconds(times_.suspect), activity_of(sign)));
  if (!gone.empty()) return fmt::format("{}", fmt::join(gone, "; "));
  std::vector<std::string> alive;
  for (const auto& [rank, sign] : living) alive.push_back(fmt::format("rank {} is {}", rank, activity_of(sign)));
  return fmt::format("all its ranks live: {}", fmt::join(alive, ", "));
}

void RankWatch::fail(const std::string& activity, const std::vector<int>& ranks, const std::string& cause) {
  std::string reason;
  try {
    reason = blame(ranks);
    const std::string first = store_->compareSet("failure", "", reason);
    if (!first.empty()) reason = first;
  } catch (const c10::Error& error) {
    reason = fmt::format("the store of {} is gone ({})", store_host_, first_line(error));
  }
  set_failure(reason);
  throw RankError(fmt::format("rank {}: {} among ranks {} failed: {} [{}]", rank_, activity, fmt::join(ranks, ", "),
                              reason, cause));
}

void RankWatch::end(const std::string& reason) {
  stop();
  store_->set(key("end", rank_), reason.empty() ? "ended its work" : "failed: " + reason);
}

bool RankWatch::wait_for_ends(std::chrono::milliseconds timeout) {
  std::map<int, std::pair<std::string, Clock::time_point>> awaited;
  for (int rank = 0; rank < world_size_; ++rank)
    if (rank != rank_) awaited[rank] = {"", Clock::now()};
  const auto start = Clock::now();
  while (!awaited.empty()) {
    if (Clock::now() - start > timeout) return false;
    for (auto it = awaited.begin(); it != awaited.end();) {
      auto& [sign, changed] = it->second;
      const std::string now = read(key("beat", it->first));
      if (now != sign) it->second = {now, Clock::now()};
      const bool over = store_->check({key("end", it->first)}) || Clock::now() - changed > times_.suspect;
      it = over ? awaited.erase(it) : std::next(it);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

void RankWatch::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

}  // namespace viaduct::parallel
