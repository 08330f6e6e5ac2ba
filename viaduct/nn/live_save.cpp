// Live model -> Hugging Face folder.
#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <chrono>

#include "viaduct/bridge/conversion_steps.h"
#include "viaduct/bridge/staging.h"
#include "viaduct/core/error.h"
#include "viaduct/nn/agree.h"
#include "viaduct/nn/live.h"
#include "viaduct/nn/shard_gather.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::nn {

namespace {

// The files of a plan, and behind them numbers in memory.
class LiveSource : public bridge::ByteSource {
 public:
  LiveSource(bridge::ByteSource& files, uint32_t count, std::vector<std::span<const std::byte>> numbers)
      : files_(files), count_(count), numbers_(bridge::memory_source(numbers)) {}
  bridge::ReadPace pace() const override { return files_.pace(); }
  uint64_t size(uint32_t file) const override {
    return file < count_ ? files_.size(file) : numbers_->size(file - count_);
  }
  size_t read(uint32_t file, uint64_t offset, std::span<std::byte> to) override {
    return file < count_ ? files_.read(file, offset, to) : numbers_->read(file - count_, offset, to);
  }

 private:
  bridge::ByteSource& files_;
  uint32_t count_;
  std::unique_ptr<bridge::ByteSource> numbers_;
};

// A sink that several plans write to, one after the other.
class OpenSink : public bridge::ByteSink {
 public:
  explicit OpenSink(bridge::ByteSink& sink) : sink_(sink) {}
  void write(uint32_t file, uint64_t offset, std::span<const std::byte> from) override {
    sink_.write(file, offset, from);
  }
  void finish() override {}

 private:
  bridge::ByteSink& sink_;
};

// Writes the target chunks of an export, some at a time.
class FolderWriter {
 public:
  FolderWriter(const bridge::Conversion& conversion, const Path& data, const SaveOptions& options)
      : conversion_(conversion), part_(conversion.plan) {
    part_.targets.clear();
    part_.transfers.clear();
    options_.threads = options.threads;
    options_.max_memory = options.max_memory;
    options_.progress = options.progress;
    source_ = bridge::open_source(conversion.plan);
    sink_ = bridge::file_sink(data, conversion.plan.target.files);
    sums_.resize(conversion.plan.targets.size());
  }

  // Chunks [begin, end) of the plan; numbers[i - begin]: what chunk i is made of, undefined where it comes from the
  // source.
  void write(size_t begin, size_t end, const std::vector<at::Tensor>& numbers) {
    const bridge::TransferPlan& whole = conversion_.plan;
    const auto files = static_cast<uint32_t>(whole.source_files.size());
    std::vector<std::span<const std::byte>> memory;
    part_.regions = whole.regions;
    part_.sources.resize(whole.sources.size());
    part_.source_files.resize(files);
    part_.targets.clear();
    part_.transfers.clear();
    for (size_t i = begin; i < end; ++i) {
      bridge::TargetChunk chunk = whole.targets[i];
      const auto first = static_cast<uint32_t>(part_.transfers.size());
      if (const at::Tensor& held = numbers[i - begin]; held.defined()) {
        const auto file = files + static_cast<uint32_t>(memory.size());
        memory.push_back(torchx::bytes_of(held));
        part_.source_files.emplace_back("the live model");
        part_.transfers.push_back(
            {static_cast<int32_t>(part_.sources.size()), static_cast<uint32_t>(part_.regions.size())});
        part_.sources.push_back({file, 0, torchx::dtype_of(held.scalar_type()), chunk.size, {}});
        const layout::Box box = layout::Box::whole(chunk.size);
        part_.regions.push_back({box, box, layout::AxisMap::identity(chunk.size.rank())});
      } else {
        // Of a Hugging Face source they are its own values, not an import's.
        if (conversion_.source->world() == bridge::World::kHuggingFace) {
          chunk.add = 0;
          chunk.encoder = bridge::kNoEncoder;
        }
        part_.transfers.insert(part_.transfers.end(), whole.transfers.begin() + chunk.first_transfer,
                               whole.transfers.begin() + chunk.first_transfer + chunk.num_transfers);
      }
      chunk.first_transfer = first;
      chunk.num_transfers = static_cast<uint32_t>(part_.transfers.size()) - first;
      part_.targets.push_back(chunk);
    }
    LiveSource source(*source_, files, memory);
    OpenSink sink(*sink_);
    bridge::ExecuteReport report = bridge::execute(part_, source, sink, options_);
    part_.target.literals.clear();  // the first part has written them
    read_ += report.bytes_read;
    written_ += report.bytes_written;
    for (size_t i = begin; i < end; ++i) sums_[i] = std::move(report.sums[i - begin]);
  }

  void finish() {
    source_->finish();
    sink_->finish();
  }

  const std::vector<std::vector<bridge::BlockSum>>& sums() const { return sums_; }
  uint64_t bytes_read() const { return read_; }
  uint64_t bytes_written() const { return written_; }

 private:
  const bridge::Conversion& conversion_;
  bridge::TransferPlan part_;
  bridge::ExecuteOptions options_;
  std::unique_ptr<bridge::ByteSource> source_;
  std::unique_ptr<bridge::ByteSink> sink_;
  std::vector<std::vector<bridge::BlockSum>> sums_;
  uint64_t read_ = 0, written_ = 0;
};

// What the first rank has open while it writes.
struct Writing {
  std::optional<bridge::Staging> staging;
  std::optional<FolderWriter> writer;

  void discard() {
    writer.reset();
    if (staging) staging->discard();
    staging.reset();
  }
};

void stream(const ShardGather& gather, const parallel::Mesh& mesh, const bridge::Conversion& conversion,
            const SaveOptions& options, Writing& writing) {
  const bridge::WeightGraph& graph =
      conversion.target_graph ? *conversion.target_graph : conversion.source->graph();
  const std::vector<bridge::TargetChunk>& chunks = conversion.plan.targets;
  const auto is_live = [&](size_t chunk) {
    const int32_t hf_tensor = conversion.made_of[chunk];
    return hf_tensor >= 0 && gather.holds(graph, static_cast<size_t>(hf_tensor));
  };
  for (size_t next = 0; next < chunks.size() || next == 0;) {
    const size_t begin = next;
    std::vector<WantedTensor> wanted;
    for (uint64_t size = 0; next < chunks.size(); ++next) {
      if (next != begin && size + chunks[next].num_bytes() > options.bucket) break;
      size += chunks[next].num_bytes();
      if (!is_live(next)) continue;
      const auto id = static_cast<size_t>(conversion.made_of[next]);
      wanted.push_back({chunks[next].size, gather.numbers_of(graph, id), graph.to_hf(id)});
    }
    std::vector<at::Tensor> made = gather.gather(wanted, true);
    agree(mesh.world, gather.device(), [&] {
      if (mesh.world.rank() != 0) return;
      std::vector<at::Tensor> numbers(next - begin);
      for (size_t i = begin, n = 0; i < next; ++i)
        if (is_live(i)) numbers[i - begin] = std::exchange(made[n++], {}).cpu();
      writing.writer->write(begin, next, numbers);
    });
    if (chunks.empty()) break;
  }
}

}  // namespace

bridge::ConversionReport save_hf_pretrained(const ModelChunks& chunks, const parallel::Mesh& mesh,
                                            const bridge::Checkpoint& source, const Path& folder,
                                            const bridge::HfTarget& target, const SaveOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const bool first = mesh.world.rank() == 0;
  const ShardGather gather(chunks, mesh, source.arch(), source.path().string());
  bridge::Conversion conversion;
  Writing writing;
  agree(mesh.world, gather.device(), [&] {
    VIADUCT_USER_CHECK(
        target.quantize == bridge::HfTarget::Quantize::kNo,
        "a live model is written as numbers: write it so, and then convert the folder with --quantize");
    bridge::HfTarget live = target;
    live.held = gather.held_or_imported(source);
    conversion = bridge::plan_export(source, folder, live);
    VIADUCT_USER_CHECK(conversion.proof.holds(), "the plan is not complete, nothing was written:\n  {}",
                       fmt::join(conversion.proof.problems, "\n  "));
    if (!first) return;
    const bridge::StagingOptions staging{conversion.plan.hash(), options.overwrite, false,
                                         bridge::files_to_keep(conversion)};
    writing.staging.emplace(bridge::Staging::for_folder(folder, staging));
    bridge::check_space(conversion, conversion.bytes_to_write());
    writing.writer.emplace(conversion, writing.staging->path(), options);
    if (options.progress) options.progress->begin("saving", conversion.plan.bytes_of_data());
  });
  bridge::ConversionReport report;
  try {
    stream(gather, mesh, conversion, options, writing);
    agree(mesh.world, gather.device(), [&] {
      if (!first) return;
      if (options.progress) options.progress->end();
      writing.writer->finish();
      bridge::write_files(conversion, writing.staging->path(), writing.writer->sums());
      report.bytes_read = writing.writer->bytes_read();
      report.bytes_written = writing.writer->bytes_written();
      writing.staging->commit();
    });
  } catch (...) {
    writing.discard();  // then the caller gets the error
    throw;
  }
  report.tensors = conversion.plan.target.tensors.size();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  report.peak_memory = peak_resident_memory();
  return report;
}

}  // namespace viaduct::nn
