// viaduct plan: the transfers of a conversion, without running it.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/opened.h"
#include "cli/options.h"
#include "cli/plan_report.h"
#include "viaduct/core/error.h"

namespace viaduct::cli {

namespace {

struct PlanOptions {
  std::string source;
  std::string target;
  std::string to;
  std::string reference;
  std::optional<int64_t> source_iteration;
  MegatronFlags megatron;
  std::string max_shard_size;
  size_t limit = 20;
  bool all = false;
  bool stream = false;
  bool json = false;
};

bridge::Conversion make_plan(const bridge::Checkpoint& source, const PlanOptions& options) {
  if (options.to == "megatron") {
    VIADUCT_USER_CHECK(options.max_shard_size.empty(), "--max-shard-size belongs to --to hf");
    return bridge::plan_import(source, options.target, options.megatron.target());
  }
  const topology::Parallelism one;
  const topology::Parallelism& given = options.megatron.layout.parallel;
  VIADUCT_USER_CHECK(given.tp == one.tp && given.pp == one.pp && given.vpp == one.vpp && given.cp == one.cp &&
                         given.ep == one.ep && given.etp == one.etp && options.megatron.files == 0,
                     "--tp, --pp, --vpp, --cp, --ep, --etp and --files belong to --to megatron");
  return bridge::plan_export(source, options.target,
                             HfFlags{options.megatron.dtype, options.max_shard_size}.target());
}

// "[0:16, 0:64]"
std::string box_text(const layout::Box& box) { return layout::to_string(box); }

const formats::StoredTensor& tensor_of(const bridge::TransferPlan& plan, const bridge::TargetChunk& chunk) {
  return plan.target.tensors.at(chunk.tensor);
}

std::string transfer_text(const bridge::TransferPlan& plan, const bridge::Transfer& transfer) {
  const bridge::Region& region = plan.region_of(transfer);
  if (transfer.source == layout::kNoTensor) return fmt::format("    {} <- zeros\n", box_text(region.to));
  const bridge::SourceChunk& source = plan.sources.at(static_cast<size_t>(transfer.source));
  return fmt::format("    {} <- {} {} of the {} {} at byte {} of {}\n", box_text(region.to), source.dtype,
                     box_text(region.from), source.size, source.strides.empty() ? "rows" : "strided view",
                     source.byte_offset, plan.source_files.at(source.file).filename().string());
}

void print_plan(const bridge::Conversion& conversion, const PlanOptions& options) {
  const bridge::TransferPlan& plan = conversion.plan;
  fmt::print("{}\n", describe(conversion, estimate(conversion, {})));
  size_t shown = 0;
  for (const bridge::TargetChunk& chunk : plan.targets) {
    if (!options.all && shown >= options.limit) break;
    const formats::StoredTensor& tensor = tensor_of(plan, chunk);
    fmt::print("  {} {} {} at {} -> byte {} of {} = {}\n", tensor.name, chunk.dtype, chunk.size,
               tensor.chunks.at(chunk.chunk).offset, chunk.byte_offset, plan.target.files.at(chunk.file).name,
               conversion.rule(static_cast<size_t>(&chunk - plan.targets.data())));
    for (uint32_t i = 0; i < chunk.num_transfers; ++i) {
      if (!options.all && shown >= options.limit) break;
      fmt::print("{}", transfer_text(plan, plan.transfers.at(chunk.first_transfer + i)));
      ++shown;
    }
  }
  if (shown < plan.transfers.size())
    fmt::print("  and {} more transfers (--limit N, or --all)\n", grouped(plan.transfers.size() - shown));
}

Json box_json(const layout::Box& box) {
  return Json::object(
      {{"offset", json_shape(box.offset)}, {"size", json_shape(box.size)}, {"stride", json_shape(box.stride)}});
}

Json transfer_json(const bridge::TransferPlan& plan, const bridge::Transfer& transfer) {
  const bridge::Region& region = plan.region_of(transfer);
  Json json = Json::object();
  json.set("to", box_json(region.to));
  if (transfer.source == layout::kNoTensor) {
    json.set("zeros", true);
    return json;
  }
  const bridge::SourceChunk& source = plan.sources.at(static_cast<size_t>(transfer.source));
  Json axes = Json::array();
  for (int axis = 0; axis < region.to.rank(); ++axis)
    axes.items().push_back(Json(static_cast<int>(region.axes[axis])));
  json.set("from", box_json(region.from));
  json.set("axes", std::move(axes));
  json.set("file", plan.source_files.at(source.file).filename().string());
  json.set("byte_offset", json_count(source.byte_offset));
  json.set("dtype", name(source.dtype));
  json.set("size", json_shape(source.size));
  json.set("strides", json_shape(source.strides.empty() ? row_major_strides(source.size) : source.strides));
  return json;
}

void print_plan_json(const bridge::Conversion& conversion, const PlanOptions& options) {
  const bridge::TransferPlan& plan = conversion.plan;
  Json json = describe_json(conversion, estimate(conversion, {}));
  Json files = Json::array(), chunks = Json::array();
  for (const formats::TargetFile& file : plan.target.files)
    files.items().push_back(Json::object({{"name", Json(file.name)}, {"size", json_count(file.size)}}));
  size_t shown = 0;
  for (const bridge::TargetChunk& chunk : plan.targets) {
    if (!options.all && shown >= options.limit) break;
    const formats::StoredTensor& tensor = tensor_of(plan, chunk);
    Json transfers = Json::array();
    for (uint32_t i = 0; i < chunk.num_transfers; ++i, ++shown)
      transfers.items().push_back(transfer_json(plan, plan.transfers.at(chunk.first_transfer + i)));
    chunks.items().push_back(
        Json::object({{"tensor", Json(tensor.name)},
                      {"offset", json_shape(tensor.chunks.at(chunk.chunk).offset)},
                      {"size", json_shape(chunk.size)},
                      {"dtype", Json(name(chunk.dtype))},
                      {"file", Json(plan.target.files.at(chunk.file).name)},
                      {"byte_offset", json_count(chunk.byte_offset)},
                      {"rule", Json(conversion.rule(static_cast<size_t>(&chunk - plan.targets.data())))},
                      {"transfers", std::move(transfers)}}));
  }
  json.set("target_files", std::move(files));
  json.set("shown_transfers", json_count(shown));
  json.set("plan", std::move(chunks));
  print_json(json);
}

int run_plan(const PlanOptions& options) {
  bridge::OpenOptions open;
  open.iteration = options.source_iteration;
  if (!options.reference.empty()) open.reference = model_path(options.reference);
  const auto source = open_model(options.source, open, options.stream);
  const bridge::Conversion conversion = make_plan(*source, options);
  if (options.json) {
    print_plan_json(conversion, options);
  } else {
    print_plan(conversion, options);
  }
  return conversion.proof.holds() ? kDone : kUserMistake;
}

}  // namespace

void add_plan(CLI::App& program, Action& action) {
  add_command<PlanOptions>(
      program, action, "plan", "Show the transfers that a conversion would make",
      [](CLI::App& command, PlanOptions& options) {
        command.add_option("SRC", options.source, "Checkpoint of any format")->required();
        command.add_option("DST", options.target, "Where the conversion would write")->required();
        command.add_option("--to", options.to, "What to convert to: megatron or hf")
            ->required()
            ->check(CLI::IsMember({"megatron", "hf"}));
        command.add_option("--iteration", options.source_iteration, "Which iteration of a Megatron source")
            ->check(CLI::Range(int64_t{0}, int64_t{9999999}))
            ->type_name("N");
        command
            .add_option("--reference", options.reference, "Hugging Face folder that gives config and shard names")
            ->type_name("HF_DIR");
        command.add_option("--max-shard-size", options.max_shard_size, "Cut shards of at most this size")
            ->type_name("SIZE");
        add_stream(command, options.stream);
        options.megatron.add_to(command, false);
        command.add_option("--limit", options.limit, "Show so many transfers (default: 20)")
            ->check(CLI::Range(0, 1000000000))
            ->type_name("N");
        command.add_flag("--all", options.all, "Show every transfer");
        command.add_flag("--json", options.json, "Print one JSON object instead of text");
      },
      run_plan);
}

}  // namespace viaduct::cli
