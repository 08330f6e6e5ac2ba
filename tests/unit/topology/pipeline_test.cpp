#include "viaduct/topology/pipeline.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <functional>

#include "tests/unit/topology/fixture_lines.h"
#include "viaduct/core/error.h"

namespace viaduct::topology {
namespace {

using testing::fields;
using testing::fixture_lines;
using ::testing::HasSubstr;

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

// The text that upstream's tables were written in.
std::string table(const Pipeline& pipeline, bool with_mtp) {
  std::string text;
  for (int chunk = 0; chunk < pipeline.vpp(); ++chunk)
    for (int rank = 0; rank < pipeline.pp(); ++rank)
      text += fmt::format("{}{}:{}", text.empty() ? "" : " ", pipeline.layers_in({rank, chunk}),
                          pipeline.first_layer_of({rank, chunk})) +
              (with_mtp ? fmt::format(":{}", pipeline.mtp() == Pipeline::Chunk{rank, chunk} ? 1 : 0) : "");
  return text;
}

void expect_round_trips(const Pipeline& pipeline) {
  for (int layer = 0; layer < pipeline.num_layers(); ++layer) {
    const Pipeline::Place place = pipeline.place_of(layer);
    EXPECT_EQ(pipeline.layer_at(place), layer);
    EXPECT_EQ(pipeline.first_layer_of(place.chunk) + place.index, layer);
    EXPECT_LT(place.index, pipeline.layers_in(place.chunk));
  }
}

TEST(PipelineLayout, EqualsMegatronCore) {
  int sound = 0, refused = 0, texts_refused = 0;
  for (const std::string& line : fixture_lines("layouts.txt")) {
    const std::vector<std::string> cells = fields(line, '\t');
    ASSERT_EQ(cells.size(), 6u) << line;
    const std::string &text = cells[0], &expanded = cells[4], &expected = cells[5];
    if (expanded == "error") {
      EXPECT_THROW(parse_layout(text), UserError) << line;
      ++texts_refused;
      continue;
    }
    const StageList stages = parse_layout(text);
    ASSERT_EQ(to_string(stages), expanded) << line;
    ASSERT_EQ(parse_layout(expanded), stages);
    PipelineOptions options;
    options.pipeline_model_parallel_layout = stages;
    options.pipeline_model_parallel_size = std::stoi(cells[1]);
    options.num_layers = std::stoi(cells[2]);
    options.mtp_num_layers = std::stoi(cells[3]);
    if (expected == "error" || options.num_layers == 0) {
      EXPECT_THROW(Pipeline{options}, UserError) << line;
      ++refused;
      continue;
    }
    const Pipeline pipeline(options);
    // Upstream counts MTP layers; they are all in one chunk.
    std::string counted;
    for (const std::string& cell : fields(expected, ' ')) {
      const auto parts = fields(cell, ':');
      counted += fmt::format("{}{}:{}:{}", counted.empty() ? "" : " ", parts[0], parts[1], parts[2] == "0" ? 0 : 1);
      EXPECT_TRUE(parts[2] == "0" || std::stoi(parts[2]) == options.mtp_num_layers);
    }
    EXPECT_EQ(table(pipeline, true), counted) << line;
    expect_round_trips(pipeline);
    ++sound;
  }
  EXPECT_GE(sound, 100);
  EXPECT_GE(refused, 30);
  EXPECT_GE(texts_refused, 10);
}

TEST(Pipeline, SplitsEqualMegatronCore) {
  int sound = 0, refused = 0;
  for (const std::string& line : fixture_lines("splits.txt")) {
    const std::vector<std::string> halves = fields(line, '\t');
    std::vector<int> numbers;
    for (const std::string& word : fields(halves[0], ' ')) numbers.push_back(std::stoi(word));
    PipelineOptions options;
    options.num_layers = numbers[0];
    options.pipeline_model_parallel_size = numbers[1];
    options.virtual_pipeline_model_parallel_size = numbers[2];
    if (numbers[3] > 0) options.num_layers_in_first_pipeline_stage = numbers[3];
    if (numbers[4] > 0) options.num_layers_in_last_pipeline_stage = numbers[4];
    options.account_for_embedding_in_pipeline_split = numbers[5] != 0;
    options.account_for_loss_in_pipeline_split = numbers[6] != 0;
    if (halves[1] == "error") {
      EXPECT_THROW(Pipeline{options}, UserError) << line;
      ++refused;
      continue;
    }
    const Pipeline pipeline(options);
    EXPECT_EQ(table(pipeline, false), halves[1]) << line;
    expect_round_trips(pipeline);
    ++sound;
  }
  EXPECT_EQ(sound, 160);
  EXPECT_EQ(refused, 60);
}

TEST(Pipeline, EmbeddingNormLossAndMtp) {
  PipelineOptions options;
  options.num_layers = 8;
  options.pipeline_model_parallel_size = 2;
  options.virtual_pipeline_model_parallel_size = 2;
  const Pipeline plain(options);
  EXPECT_EQ(plain.embedding(), (Pipeline::Chunk{0, 0}));
  EXPECT_EQ(plain.loss(), (Pipeline::Chunk{1, 1}));
  EXPECT_EQ(plain.final_norm(), plain.loss());
  EXPECT_FALSE(plain.mtp());
  EXPECT_EQ(plain.place_of(5), (Pipeline::Place{{0, 1}, 1}));
  options.mtp_num_layers = 1;
  EXPECT_EQ(Pipeline(options).mtp(), plain.loss());
  // An MTP layer in a stage of its own: the final norm stays behind the last layer.
  options = {};
  options.num_layers = 4;
  options.mtp_num_layers = 1;
  options.pipeline_model_parallel_size = 4;
  options.pipeline_model_parallel_layout = parse_layout("Ett|tt|m|L");
  const Pipeline standalone(options);
  EXPECT_EQ(standalone.mtp(), (Pipeline::Chunk{2, 0}));
  EXPECT_EQ(standalone.final_norm(), (Pipeline::Chunk{1, 0}));
  EXPECT_EQ(standalone.layers_in({3, 0}), 0);
}

TEST(PipelineLayout, NamesAndTextSayTheSame) {
  EXPECT_EQ(layout_from_names({{"embedding", " Decoder "}, {"decoder", "mtp"}, {"LOSS"}}), parse_layout("Et|tm|L"));
  EXPECT_THAT(message_of([] {
                layout_from_names({{"embedding"}, {"encoder"}});
              }),
              AllOf(HasSubstr("stage 1"), HasSubstr("'encoder'")));
}

TEST(PipelineLayout, ErrorsNameThePlace) {
  const auto error = [](const char* text) { return message_of([text] { parse_layout(text); }); };
  EXPECT_THAT(error("Etx|L"), AllOf(HasSubstr("character 3"), HasSubstr("'x'")));
  EXPECT_THAT(error("E((t)*2|)*3L"), HasSubstr("do not nest"));
  EXPECT_THAT(error("E(tt|L"), AllOf(HasSubstr("character 2"), HasSubstr("not closed")));
  EXPECT_THAT(error("E(tt)L"), HasSubstr("without a repetition"));
  EXPECT_THAT(error("Et*|L"), HasSubstr("a number must follow"));
  EXPECT_THAT(error("Et*2*3|L"), HasSubstr("cannot follow another"));
  EXPECT_THAT(error("Et*99999999999999999999999|L"), HasSubstr("too long"));
  EXPECT_THAT(error("E(t*9999|)*9999L"), HasSubstr("too long"));
  EXPECT_EQ(parse_layout(""), StageList(1));
  EXPECT_EQ(to_string(parse_layout("E,t*1,0|,L,")), "Etttttttttt|L");
}

TEST(Pipeline, ErrorsNameTheFields) {
  const auto error = [](const std::function<void(PipelineOptions&)>& change) {
    PipelineOptions options;
    options.num_layers = 12;
    options.pipeline_model_parallel_size = 4;
    change(options);
    return message_of([&] { Pipeline{options}; });
  };
  EXPECT_EQ(error([](auto&) {}), "no error");
  EXPECT_THAT(error([](auto& o) { o.num_layers = 0; }), HasSubstr("num_layers is 0"));
  EXPECT_THAT(error([](auto& o) { o.num_layers = 13; }),
              AllOf(HasSubstr("13 layers"), HasSubstr("pipeline_model_parallel_size")));
  EXPECT_THAT(error([](auto& o) { o.virtual_pipeline_model_parallel_size = 2; }),
              HasSubstr("virtual_pipeline_model_parallel_size 2"));
  EXPECT_THAT(error([](auto& o) { o.num_layers_in_first_pipeline_stage = 0; }),
              HasSubstr("num_layers_in_first_pipeline_stage is 0"));
  EXPECT_THAT(error([](auto& o) { o.num_layers_in_last_pipeline_stage = 20; }), HasSubstr("leave -8 of 12 layers"));
  EXPECT_THAT(error([](auto& o) {
                o.num_layers_in_first_pipeline_stage = 3;
                o.account_for_loss_in_pipeline_split = true;
              }),
              HasSubstr("cannot be set together"));
  EXPECT_THAT(error([](auto& o) {
                o.pipeline_model_parallel_layout = parse_layout("Et|L");
                o.account_for_loss_in_pipeline_split = true;
              }),
              HasSubstr("cannot be set together"));
  EXPECT_THAT(error([](auto& o) { o.pipeline_model_parallel_layout = parse_layout("Et|L"); }),
              AllOf(HasSubstr("Et|L"), HasSubstr("no multiple of pipeline_model_parallel_size 4")));
  EXPECT_THAT(error([](auto& o) { o.pipeline_model_parallel_layout = parse_layout("|E|t*12|L"); }),
              HasSubstr("the embedding (E) must stand first"));
  EXPECT_THAT(error([](auto& o) { o.pipeline_model_parallel_layout = parse_layout("E|t*11|t|Lt"); }),
              HasSubstr("the loss (L) must stand last"));
  EXPECT_THAT(error([](auto& o) { o.pipeline_model_parallel_layout = parse_layout("E|t*11||L"); }),
              AllOf(HasSubstr("11 transformer layers"), HasSubstr("num_layers is 12")));
  EXPECT_THAT(error([](auto& o) { o.pipeline_model_parallel_size = 1 << 30; }), HasSubstr("too large"));
}

}  // namespace
}  // namespace viaduct::topology
