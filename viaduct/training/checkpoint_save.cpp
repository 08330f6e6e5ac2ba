#include "viaduct/training/checkpoint_save.h"

#include <ATen/ATen.h>

#include <atomic>
#include <cstring>
#include <exception>
#include <optional>
#include <thread>
#include <unordered_map>

#include "viaduct/bridge/executor.h"
#include "viaduct/bridge/plan_builder.h"
#include "viaduct/bridge/staging.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/iteration_folder.h"
#include "viaduct/formats/torch_dist_files.h"
#include "viaduct/formats/torch_dist_writer.h"
#include "viaduct/formats/torch_file.h"
#include "viaduct/models/state_keys.h"
#include "viaduct/nn/agree.h"
#include "viaduct/torchx/tensor.h"
#include "viaduct/training/checkpoint_state.h"

namespace viaduct::training {

namespace {

// Texts of all members on the first one, elsewhere nothing.
std::vector<std::string> gather_texts(const parallel::Group& group, c10::Device device, const std::string& text) {
  if (group.alone()) return {text};
  const at::Tensor sizes =
      group.all_gather(at::full({1}, static_cast<int64_t>(text.size()), at::kLong).to(device), 0).cpu();
  at::Tensor padded = at::zeros({std::max<int64_t>(sizes.max().item<int64_t>(), 1)}, at::kByte);
  std::memcpy(padded.data_ptr(), text.data(), text.size());
  const at::Tensor all = group.all_gather(padded.to(device), 0).cpu();
  std::vector<std::string> texts;
  if (group.rank() != 0) return texts;
  for (int64_t i = 0; i < group.size(); ++i)
    texts.emplace_back(static_cast<const char*>(all.data_ptr()) + i * padded.numel(),
                       static_cast<size_t>(sizes[i].item<int64_t>()));
  return texts;
}

formats::SharedBytes object_bytes(const formats::PickleValue& value) {
  return formats::SharedBytes(formats::write_torch_file(value, "archive"));
}

// The files of one rank: what they hold, and from where.
struct Part {
  formats::TorchDistIndex index;
  bridge::TransferPlan plan;
  std::vector<at::Tensor> tensors;  // by source file of the plan; contiguous, on the CPU
};

Part lay_out(const GlobalState& state, const SaveOptions& options) {
  const nn::ModelContext& context = *state.context;
  const models::LayerKeys keys = models::layer_keys_for(context.arch);
  std::vector<StateBox> boxes = model_boxes(state.chunks(), context, keys, options.writers);
  if (options.optimizer) {
    std::optional<std::string> main;
    if (const std::string name = main_parameter_name(*state.optimizer); !name.empty())
      main = "optimizer.state." + name + ".";
    for (StateBox& box : optimizer_boxes(state.chunks(), context, *state.optimizer, main, keys, options.writers))
      boxes.push_back(std::move(box));
  }
  formats::TorchDistShard shard(state.mesh->world.rank(), options.files);
  if (state.mesh->world.rank() == 0 && !state.cfg.peft)
    for (const std::string& name :
         models::extra_state_names(models::megatron_parameters(context.arch), context.arch, keys))
      shard.add_object(name, formats::empty_extra_state());
  if (options.rng)
    for (RngEntry& entry : rng_entries(state)) shard.add_object(std::move(entry.name), object_bytes(entry.value));

  Part part;
  bridge::StoredTensors memory;
  std::vector<std::pair<bridge::SourceChunk, DType>> places;             // and as what they are written
  std::vector<std::pair<uint32_t, uint32_t>> targets;                    // tensor and chunk
  std::unordered_map<std::string, std::pair<uint32_t, uint32_t>> known;  // key: its tensor, its next chunk
  const at::NoGradGuard no_grad;
  for (const StateBox& box : boxes) {
    if (!box.writes) continue;
    formats::StoredTensor tensor{box.key, box.dtype, box.shape, {}};
    tensor.chunks.push_back({box.offset, box.size, 0, 0, {}});
    shard.add(std::move(tensor));
    const auto place = known.try_emplace(box.key, static_cast<uint32_t>(known.size()), 0u).first;
    targets.emplace_back(place->second.first, place->second.second++);
    bridge::SourceChunk source;
    source.file = static_cast<uint32_t>(part.tensors.size());
    source.dtype = torchx::dtype_of(box.values.scalar_type());
    source.size = box.size;
    places.emplace_back(source, box.dtype);
    // What is written while training goes on must not change any more.
    at::Tensor values = box.values.detach();
    values = values.is_cpu() && !options.background
                 ? values.contiguous()
                 : values.to(at::kCPU, values.scalar_type(), /*non_blocking=*/false,
                             /*copy=*/true, at::MemoryFormat::Contiguous);
    part.tensors.push_back(values);
    memory.files.emplace_back(box.key);
  }
  bridge::PlanBuilder builder(memory);
  for (size_t i = 0; i < places.size(); ++i)
    builder.add_copy(places[i].first, targets[i].first, targets[i].second, places[i].second);
  part.plan = builder.finish(shard.finish());
  part.index = shard.take_index();
  return part;
}

}  // namespace

struct PendingSave::Work {
  std::shared_ptr<const parallel::Mesh> mesh;
  c10::Device device = at::kCPU;
  Path root;
  int64_t iteration = 0;
  Part part;
  Path folder;                             // where the data files go
  std::optional<bridge::Staging> staging;  // of the first rank
  std::vector<std::string> indices;        // on the first rank: .metadata of every rank's part
  std::vector<std::pair<std::string, std::string>> small_files;  // on the first rank: below `staging`, in order

  std::thread thread;
  std::atomic<bool> done = false;
  std::exception_ptr error;

  void write() {
    try {
      std::vector<std::span<const std::byte>> memory;
      for (const at::Tensor& tensor : part.tensors) memory.push_back(torchx::bytes_of(tensor));
      const auto source = bridge::memory_source(memory);
      const auto sink = bridge::file_sink(folder, part.plan.target.files);
      bridge::ExecuteOptions options;
      options.threads = 2;
      options.max_memory = 96u << 20;
      bridge::execute(part.plan, *source, *sink, options);
      part.tensors.clear();
    } catch (...) {
      error = std::current_exception();  // thrown by finish()
    }
    done = true;
  }

  // The first rank: everything but the data files, and the move into place.
  void complete() {
    std::vector<formats::TorchDistIndex> parts;
    for (size_t i = 0; i < indices.size(); ++i)
      parts.push_back(formats::parse_torch_dist_metadata(std::move(indices[i]), fmt::format("rank {}", i)));
    write_file(folder / ".metadata",
               formats::write_torch_dist_metadata(formats::merge_indices(std::move(parts)),
                                                  (root / formats::iteration_folder_name(iteration)).string()));
    for (const auto& [name, bytes] : small_files) {
      const Path file = staging->path() / name;
      bridge::create_folder(file.parent_path());
      write_file(file, bytes);
    }
    staging->commit();
    staging.reset();
  }

  void discard() {
    if (thread.joinable()) thread.join();
    if (staging) staging->discard();
    staging.reset();
  }
};

PendingSave::PendingSave(std::unique_ptr<Work> work) : work_(std::move(work)) {}

PendingSave::~PendingSave() {
  if (work_ && work_->thread.joinable()) work_->thread.join();
}

std::unique_ptr<PendingSave> PendingSave::start(const GlobalState& state, const Path& root,
                                                const SaveOptions& options) {
  std::unique_ptr<PendingSave> save(new PendingSave(std::make_unique<Work>()));
  Work& work = *save->work_;
  work.mesh = state.mesh;
  work.device = state.device;
  work.root = root;
  work.iteration = state.train_state.step;
  const std::string name = formats::iteration_folder_name(work.iteration);
  const bool first = state.mesh->world.rank() == 0;
  // The staging folder's name follows from the iteration, so that every rank knows it.
  bridge::StagingOptions staging;
  staging.plan_hash = static_cast<uint64_t>(work.iteration);
  staging.overwrite = true;
  work.folder = bridge::StagingPlace::of_iteration(root, name, staging.plan_hash).path() / name;
  try {
    nn::agree(state.mesh->world, state.device, [&] {
      work.part = lay_out(state, options);
      if (!first) return;
      work.staging.emplace(bridge::Staging::for_iteration(root, name, staging));
      bridge::create_folder(work.folder);
    });
  } catch (const std::exception&) {
    work.discard();
    throw;
  }
  work.indices = gather_texts(state.mesh->world, state.device, formats::write_torch_dist_metadata(work.part.index));
  if (first) {
    const std::string train_state = train_state_bytes(state);
    const auto add = [&](const std::string& file, std::string bytes) {
      work.small_files.emplace_back(file, std::move(bytes));
    };
    add(name + "/common.pt", formats::write_torch_file(common_state(state, options.optimizer), "common"));
    add(name + "/train_state.pt", train_state);
    add(name + "/run_config.yaml", state.cfg.print_yaml());
    add(name + "/metadata.json", formats::torch_dist_metadata_json());
    if (options.tokenizer)
      for (const TokenizerFile& file : state.tokenizer_files) add(name + "/tokenizer/" + file.name, file.content);
    add("latest_train_state.pt", train_state);
    add("latest_checkpointed_iteration.txt", fmt::format("{}", work.iteration));
  }
  if (options.background)
    work.thread = std::thread([&work] { work.write(); });
  else
    work.write();
  return save;
}

bool PendingSave::written() const { return work_->done; }
int64_t PendingSave::iteration() const { return work_->iteration; }
const Path& PendingSave::root() const { return work_->root; }

void PendingSave::finish() {
  if (work_->thread.joinable()) work_->thread.join();
  try {
    nn::agree(work_->mesh->world, work_->device, [&] {
      if (work_->error) std::rethrow_exception(work_->error);
    });
    nn::agree(work_->mesh->world, work_->device, [&] {
      if (work_->mesh->world.rank() == 0) work_->complete();
    });
  } catch (const std::exception&) {
    work_->discard();
    throw;
  }
}

void save_checkpoint(const GlobalState& state, const Path& root, const SaveOptions& options) {
  PendingSave::start(state, root, options)->finish();
}

std::vector<Path> remove_old_iterations(const Path& root, int64_t newest, int64_t most_recent_k,
                                        std::optional<int64_t> retain_interval) {
  std::vector<int64_t> complete;
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("iter_") || !entry.is_directory()) continue;
    if (!std::filesystem::exists(entry.path() / ".metadata")) continue;
    const std::optional<int64_t> iteration = formats::find_iteration(entry.path()).iteration;
    if (iteration && *iteration < newest && formats::iteration_folder_name(*iteration) == name)
      complete.push_back(*iteration);
  }
  std::ranges::sort(complete, std::greater<>());
  std::vector<Path> removed;
  for (size_t i = 0; i < complete.size(); ++i) {
    const bool old = most_recent_k > 0 && static_cast<int64_t>(i) + 1 >= most_recent_k;
    const bool between = retain_interval && *retain_interval > 0 && complete[i] % *retain_interval != 0;
    if (!(retain_interval && *retain_interval > 0 ? between && (old || most_recent_k <= 0) : old)) continue;
    const Path folder = root / formats::iteration_folder_name(complete[i]);
    // The index first: what is left of an interrupted removal is then no checkpoint.
    std::filesystem::remove(folder / ".metadata");
    bridge::remove_tree(folder);
    removed.push_back(folder);
  }
  return removed;
}

}  // namespace viaduct::training
