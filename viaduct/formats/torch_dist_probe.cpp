#include "viaduct/formats/torch_dist_probe.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>

#include "viaduct/core/error.h"
#include "viaduct/formats/pickle.h"
#include "viaduct/formats/torch_tensor.h"
#include "viaduct/formats/zip_archive.h"

namespace viaduct::formats {

namespace {

// The records before and after the data fit into these with every writer known; others cost reads of their own.
constexpr uint64_t kWindow = 1024;
constexpr uint64_t kWholeEntry = 8192;  // entries up to this size are read whole
constexpr uint64_t kGap = 4096;         // windows this near are read together
constexpr uint64_t kMaxRun = 512u << 10;
constexpr size_t kBatch = 2048;               // entries a thread takes at a time
constexpr uint64_t kPickleLimit = 64u << 10;  // a tensor's pickle has 200 bytes
constexpr size_t kMaxKnownPickles = 4096;

struct Slice {
  TorchDistPlace place;
  const TorchDistTensor* tensor;  // nullptr: an object, which is not opened
  uint32_t tensor_index;
  uint32_t chunk_index;
  std::string_view name;
};

/// Bytes of a file that were read at once.
struct Run {
  uint64_t begin = 0;
  uint64_t end = 0;
  std::vector<std::byte> bytes;
  bool holds(uint64_t offset, size_t size) const {
    return offset >= begin && offset <= end && size <= end - offset && !bytes.empty();
  }
};

class Prober {
 public:
  Prober(const std::vector<Path>& files, std::vector<StoredTensor>& out) : paths_(files), out_(out) {}

  /// `slices` lie in order of file and offset.
  void probe(std::span<const Slice> slices) {
    for (size_t first = 0; first < slices.size();) {
      size_t last = first;
      while (last < slices.size() && slices[last].place.file == slices[first].place.file) ++last;
      open(slices[first].place.file);
      probe_file(slices.subspan(first, last - first));
      first = last;
    }
  }

 private:
  void open(uint32_t file) {
    if (file_.is_open() && open_file_ == file) return;
    file_ = File::open(paths_[file], File::Mode::kRead);
    open_file_ = file;
    previous_ = current_ = Run();
  }

  static std::pair<uint64_t, uint64_t> head(const Slice& s) {
    const uint64_t size = s.place.size <= kWholeEntry ? s.place.size : kWindow;
    return {s.place.offset, s.place.offset + size};
  }
  static std::pair<uint64_t, uint64_t> tail(const Slice& s) {
    const uint64_t end = s.place.offset + s.place.size;
    return {end - (s.place.size <= kWholeEntry ? s.place.size : kWindow), end};
  }

  void probe_file(std::span<const Slice> slices) {
    // Windows in order, merged into runs.
    runs_.clear();
    for (const Slice& slice : slices) {
      for (const auto& [begin, end] : {head(slice), tail(slice)}) {
        if (!runs_.empty() && begin <= runs_.back().second + kGap && end - runs_.back().first <= kMaxRun)
          runs_.back().second = std::max(runs_.back().second, end);
        else
          runs_.emplace_back(begin, end);
      }
    }
    size_t next_run = 0;
    for (const Slice& slice : slices) {
      const uint64_t end = slice.place.offset + slice.place.size;
      // A slice's windows are in one run or in two that follow each other.
      while (next_run < runs_.size() && runs_[next_run].first < end) load(runs_[next_run++]);
      probe_slice(slice);
    }
  }

  void load(const std::pair<uint64_t, uint64_t>& range) {
    std::swap(previous_, current_);
    current_.begin = range.first;
    current_.end = range.second;
    current_.bytes.resize(range.second - range.first);
    file_.read(range.first, current_.bytes);
  }

  void read(uint64_t offset, std::span<std::byte> to) const {
    for (const Run* run : {&current_, &previous_}) {
      if (!run->holds(offset, to.size())) continue;
      if (!to.empty()) std::memcpy(to.data(), run->bytes.data() + (offset - run->begin), to.size());
      return;
    }
    file_.read(offset, to);
  }

  void probe_slice(const Slice& slice) {
    const TorchDistTensor& tensor = *slice.tensor;
    const TorchDistChunk& chunk = tensor.chunks[slice.chunk_index];
    try {
      const uint64_t base = slice.place.offset;
      const ZipArchive archive =
          ZipArchive::open([this, base](uint64_t offset, std::span<std::byte> to) { read(base + offset, to); },
                           slice.place.size, "entry");
      const std::string root(archive.root());
      const ZipEntry* pickle = archive.find(root + "/data.pkl");
      VIADUCT_USER_CHECK(pickle != nullptr, "it has no '{}/data.pkl'", root);
      if (const ZipEntry* order = archive.find(root + "/byteorder"))
        VIADUCT_USER_CHECK(archive.read(*order, 64) == "little", "its byte order is not 'little'");
      const TorchTensor& view = parse(archive.read(*pickle, kPickleLimit));
      VIADUCT_USER_CHECK(view.dtype == tensor.dtype && view.shape == chunk.size,
                         "it holds {} {}, the index says {} {}", view.dtype, view.shape, tensor.dtype, chunk.size);
      const std::string data_name = root + "/data/" + view.key;
      const ZipEntry* data = archive.find(data_name);
      VIADUCT_USER_CHECK(data != nullptr, "it has no '{}'", data_name);
      const uint64_t offset = archive.data_offset(*data);
      VIADUCT_USER_CHECK(view.storage_bytes <= data->size, "'{}' has {} bytes, its tensor {}", data_name,
                         data->size, view.storage_bytes);
      StoredChunk& stored = out_[slice.tensor_index].chunks[slice.chunk_index];
      stored.offset = chunk.offset;
      stored.size = chunk.size;
      stored.file = slice.place.file;
      stored.byte_offset = base + offset + view.byte_offset();
      stored.strides = view.strides;
    } catch (const SystemError&) {
      throw;
    } catch (const UserError& error) {
      throw UserError(fmt::format("{}: tensor {}, chunk at {}, {} bytes at offset {}: {}", file_.path().string(),
                                  tensor.name, chunk.offset, slice.place.size, slice.place.offset, error.what()));
    }
  }

  // Equal chunks have equal pickles, so few are really parsed.
  const TorchTensor& parse(std::string pickle) {
    if (const auto it = known_.find(pickle); it != known_.end()) return it->second;
    PickleOptions options;
    options.origin = "data.pkl";
    const PickleDocument document = PickleDocument::parse(pickle, options);
    VIADUCT_USER_CHECK(is_tensor_call(document.root()), "its object is no tensor");
    if (known_.size() >= kMaxKnownPickles) known_.clear();
    return known_.emplace(std::move(pickle), parse_tensor_call(document.root())).first->second;
  }

  const std::vector<Path>& paths_;
  std::vector<StoredTensor>& out_;
  File file_;
  uint32_t open_file_ = 0;
  std::vector<std::pair<uint64_t, uint64_t>> runs_;
  Run previous_, current_;
  std::unordered_map<std::string, TorchTensor> known_;
};

// Every entry lies in its file and none overlaps its neighbour.
void check_places(const std::vector<Slice>& slices, const std::vector<Path>& files) {
  std::vector<std::optional<uint64_t>> sizes(files.size());
  const Slice* before = nullptr;
  for (const Slice& slice : slices) {
    const TorchDistPlace& place = slice.place;
    const auto path = [&] { return files[place.file].string(); };
    std::optional<uint64_t>& size = sizes[place.file];
    if (!size) {
      VIADUCT_USER_CHECK(std::filesystem::is_regular_file(files[place.file]),
                         "{} is missing: the index says that {} lies in it. Copy the whole checkpoint", path(),
                         slice.name);
      size = std::filesystem::file_size(files[place.file]);
    }
    VIADUCT_USER_CHECK(
        place.offset <= *size && place.size <= *size - place.offset,
        "{} has {} bytes, but {} is said to have {} bytes at offset {}: the file is truncated or the index "
        "is of another checkpoint",
        path(), *size, slice.name, place.size, place.offset);
    if (before != nullptr && before->place.file == place.file)
      VIADUCT_USER_CHECK(
          before->place.offset + before->place.size <= place.offset || place.size == 0 || before->place.size == 0,
          "{}: {} ({} bytes at offset {}) and {} (at offset {}) overlap", path(), before->name, before->place.size,
          before->place.offset, slice.name, place.offset);
    before = &slice;
  }
}

}  // namespace

std::vector<StoredTensor> locate_chunks(const TorchDistIndex& index, const std::vector<Path>& files) {
  std::vector<StoredTensor> tensors;
  std::vector<Slice> slices;
  tensors.reserve(index.tensors.size());
  for (uint32_t t = 0; t < index.tensors.size(); ++t) {
    const TorchDistTensor& tensor = index.tensors[t];
    tensors.push_back({tensor.name, tensor.dtype, tensor.shape, std::vector<StoredChunk>(tensor.chunks.size())});
    for (uint32_t c = 0; c < tensor.chunks.size(); ++c)
      slices.push_back({tensor.chunks[c].place, &tensor, t, c, tensor.name});
  }
  for (const TorchDistObject& object : index.objects) slices.push_back({object.place, nullptr, 0, 0, object.name});
  std::sort(slices.begin(), slices.end(), [](const Slice& a, const Slice& b) {
    return std::pair(a.place.file, a.place.offset) < std::pair(b.place.file, b.place.offset);
  });
  check_places(slices, files);
  std::erase_if(slices, [](const Slice& slice) { return slice.tensor == nullptr; });

  // Reading is waiting: more threads than processors.
  const size_t batches = (slices.size() + kBatch - 1) / kBatch;
  const size_t threads = std::min<size_t>(batches, 8);
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::exception_ptr failure;
  size_t failed_batch = batches;
  const auto work = [&] {
    Prober prober(files, tensors);
    for (size_t b = next++; b < batches; b = next++) {
      try {
        const size_t first = b * kBatch;
        prober.probe(std::span(slices).subspan(first, std::min(kBatch, slices.size() - first)));
      } catch (...) {
        // The error that comes first in the files is the one that is told, whatever the threads' order.
        const std::lock_guard lock(mutex);
        if (b < failed_batch) {
          failed_batch = b;
          failure = std::current_exception();
        }
        next = batches;
      }
    }
  };
  std::vector<std::thread> pool;
  for (size_t i = 1; i < threads; ++i) pool.emplace_back(work);
  work();
  for (std::thread& thread : pool) thread.join();
  if (failure) std::rethrow_exception(failure);
  return tensors;
}

}  // namespace viaduct::formats
