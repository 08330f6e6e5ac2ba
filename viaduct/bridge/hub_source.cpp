#include "viaduct/bridge/hub_source.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <unordered_map>

#include "viaduct/bridge/executor.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/hf_directory.h"

namespace viaduct::bridge {

namespace {

// Enough at once that neither the way there and back nor one slow connection counts.
constexpr ReadPace kPace{20, 8};

// A model's files at the hub, shared by all that read them.
class Remote {
 public:
  Remote(const hub::StreamedModel& model, const hub::HubSettings& settings, hub::Http& http,
         std::function<bool()> stop)
      : model_(model),
        stop_(std::move(stop)),
        client_(settings, http, [this] { return failed_ || is_stopped(); }),
        addresses_(model.weights.size()) {
    for (size_t i = 0; i < model_.weights.size(); ++i)
      numbers_.emplace((model_.folder / model_.weights[i].path).string(), i);
  }

  // nullopt: a file of this machine.
  std::optional<size_t> find(const Path& path) const {
    const auto it = numbers_.find(path.string());
    return it == numbers_.end() ? std::nullopt : std::optional(it->second);
  }
  uint64_t size(size_t number) const { return model_.weights[number].size; }
  // Whoever reads from now on does not see what failed before.
  void begin() {
    const std::lock_guard lock(mutex_);
    failed_ = false;
    failure_ = nullptr;
  }

  // Fills the parts, as far as the file reaches.
  size_t read(size_t number, uint64_t offset, std::span<const std::span<std::byte>> parts) {
    const hub::RemoteFile& file = model_.weights[number];
    uint64_t wanted = 0;
    for (const auto& part : parts) wanted += part.size();
    const uint64_t end = std::min(file.size, offset + wanted);
    if (offset >= end) return 0;
    size_t part = 0, filled = 0;
    const auto take = [&](std::span<const std::byte> bytes) {
      while (!bytes.empty()) {
        const size_t count = std::min(bytes.size(), parts[part].size() - filled);
        std::memcpy(parts[part].data() + filled, bytes.data(), count);
        bytes = bytes.subspan(count);
        filled += count;
        if (filled == parts[part].size()) {
          ++part;
          filled = 0;
        }
      }
    };
    try {
      client_.read(model_.name, model_.commit, file, offset, end, take, &addresses_[number]);
    } catch (const hub::HubClient::Changed&) {
      fail(std::current_exception());
    } catch (const UserError& error) {
      fail(std::make_exception_ptr(
          RemoteError(fmt::format("{} of {}: {}", file.path, model_.name.id, error.what()))));
    } catch (const Interrupted&) {
      if (is_stopped()) throw;
      fail(std::current_exception());
    }
    return static_cast<size_t>(end - offset);
  }

 private:
  bool is_stopped() const { return stop_ && stop_(); }
  // All connections give up with the first that fails, and say why it did.
  [[noreturn]] void fail(std::exception_ptr error) {
    std::exception_ptr first;
    {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::move(error);
      failed_ = true;
      first = failure_;
    }
    std::rethrow_exception(first);
  }

  const hub::StreamedModel model_;
  const std::function<bool()> stop_;
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::exception_ptr failure_;  // guarded by mutex_
  const hub::HubClient client_;
  std::vector<hub::FileAddress> addresses_;
  std::unordered_map<std::string, size_t> numbers_;
};

class HubSource : public ByteSource {
 public:
  HubSource(std::shared_ptr<Remote> remote, const std::vector<Path>& files) : remote_(std::move(remote)) {
    remote_->begin();
    std::vector<Path> local;
    for (const Path& file : files) {
      places_.push_back({remote_->find(file), static_cast<uint32_t>(local.size())});
      if (!places_.back().remote) local.push_back(file);
    }
    local_ = file_source(local);
  }

  ReadPace pace() const override { return kPace; }
  uint64_t size(uint32_t file) const override {
    const Place& place = places_.at(file);
    return place.remote ? remote_->size(*place.remote) : local_->size(place.local);
  }
  size_t read(uint32_t file, uint64_t offset, std::span<std::byte> to) override {
    return read_parts(file, offset, std::span(&to, 1));
  }
  size_t read_parts(uint32_t file, uint64_t offset, std::span<const std::span<std::byte>> parts) override {
    const Place& place = places_.at(file);
    return place.remote ? remote_->read(*place.remote, offset, parts)
                        : local_->read_parts(place.local, offset, parts);
  }
  void finish() override { local_->finish(); }

 private:
  struct Place {
    std::optional<size_t> remote;
    uint32_t local = 0;
  };
  std::shared_ptr<Remote> remote_;
  std::vector<Place> places_;
  std::unique_ptr<ByteSource> local_;
};

class HubStore : public ByteStore {
 public:
  explicit HubStore(std::shared_ptr<Remote> remote) : remote_(std::move(remote)) {}

  std::unique_ptr<ByteSource> open(const std::vector<Path>& files) const override {
    return std::make_unique<HubSource>(remote_, files);
  }
  void read(const Path& file, uint64_t offset, std::span<std::byte> to) const override {
    const std::optional<size_t> number = remote_->find(file);
    if (!number) return File::open(file, File::Mode::kRead).read(offset, to);
    const size_t count = remote_->read(*number, offset, std::span(&to, 1));
    VIADUCT_CHECK_EQ(count, to.size(), "{}", file.string());
  }

 private:
  std::shared_ptr<Remote> remote_;
};

}  // namespace

std::shared_ptr<const ByteStore> hub_store(const hub::StreamedModel& model, const hub::HubSettings& settings,
                                           hub::Http& http, std::function<bool()> stop) {
  return std::make_shared<HubStore>(std::make_shared<Remote>(model, settings, http, std::move(stop)));
}

std::unique_ptr<Checkpoint> open_streamed(const std::string& text, OpenOptions options, Progress* progress,
                                          const std::function<bool()>& stop) {
  std::error_code error;
  VIADUCT_USER_CHECK(!std::filesystem::exists(text, error),
                     "{} is on this machine: --stream is for models of the hub, by name. Leave it out", text);
  const std::optional<hub::RepoName> name = hub::parse_repo_name(text);
  VIADUCT_USER_CHECK(name && name->id.find('/') != std::string::npos,
                     "\"{}\" is no name of the hub (org/name, or org/name@revision), which --stream wants", text);
  const hub::HubSettings settings = hub::HubSettings::from_environment();
  hub::Http& http = hub::curl_http();
  const hub::StreamedModel model = hub::prepare_stream(hub::HubClient(settings, http, stop), *name, progress);
  options.store = hub_store(model, settings, http, stop);
  auto checkpoint = open_checkpoint(model.folder, options);
  checkpoint->set_origin(name->id, model.commit);
  return checkpoint;
}

std::unique_ptr<formats::TensorReader> open_reader(const Checkpoint& streamed) {
  return formats::open_hf_directory(streamed.path(), read_file(streamed.stored()));
}

}  // namespace viaduct::bridge
