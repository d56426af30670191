"""ABTestService: proto ⇄ domain."""

from google.protobuf.empty_pb2 import Empty

from anneal.abtest.v1 import ab_test_service_pb2 as pb
from anneal.abtest.v1 import experiment_pb2
from anneal.abtest.v1.ab_test_service_pb2_grpc import ABTestServiceServicer
from services.abtest import translation
from services.abtest.domain.ballots import Ballots
from services.abtest.domain.experiments import Experiments
from services.abtest.domain.names import ExperimentName, ReportName
from services.common.errors import Context
from services.common.names import ProjectName
from services.common.paging import PageTokens, page_size, scope_of

DEFAULT_PAGE = 50
MAX_PAGE = 1000


class ABTestServicer(ABTestServiceServicer):
    """The RPCs of anneal.abtest.v1.ABTestService."""

    def __init__(self, experiments: Experiments, ballots: Ballots, tokens: PageTokens) -> None:
        self._experiments = experiments
        self._ballots = ballots
        self._tokens = tokens

    async def CreateExperiment(
        self, request: pb.CreateExperimentRequest, context: Context
    ) -> experiment_pb2.Experiment:
        created = await self._experiments.create(translation.draft(request))
        return translation.whole_message(created)

    async def GetExperiment(
        self, request: pb.GetExperimentRequest, context: Context
    ) -> experiment_pb2.Experiment:
        whole = await self._experiments.get(ExperimentName.parse(request.name))
        return translation.whole_message(whole)

    async def ListExperiments(
        self, request: pb.ListExperimentsRequest, context: Context
    ) -> pb.ListExperimentsResponse:
        project = ProjectName.parse(request.parent, "parent")
        scope = scope_of("experiments", request.parent)
        page = await self._experiments.page(
            project,
            self._tokens.decode(request.page_token, scope=scope) if request.page_token else None,
            page_size(request.page_size, default=DEFAULT_PAGE, maximum=MAX_PAGE),
        )
        return pb.ListExperimentsResponse(
            experiments=[translation.experiment_message(item) for item in page.items],
            next_page_token=self._tokens.encode(page.next_key, scope=scope)
            if page.next_key
            else "",
        )

    async def DeleteExperiment(
        self, request: pb.DeleteExperimentRequest, context: Context
    ) -> Empty:
        await self._experiments.delete(ExperimentName.parse(request.name))
        return Empty()

    async def NextPair(self, request: pb.NextPairRequest, context: Context) -> pb.NextPairResponse:
        name, voter = ExperimentName.parse(request.name), translation.voter(request.voter)
        pair = await self._ballots.next_pair(name, voter)
        return pb.NextPairResponse(pair=translation.pair_message(pair))

    async def CastVote(self, request: pb.CastVoteRequest, context: Context) -> pb.CastVoteResponse:
        name, voter, choice = translation.vote(request)
        cast = await self._ballots.cast(name, voter, choice)
        return pb.CastVoteResponse(vote=translation.vote_message(cast))

    async def GetExperimentReport(
        self, request: pb.GetExperimentReportRequest, context: Context
    ) -> experiment_pb2.ExperimentReport:
        name = ReportName.parse(request.name).of_experiment()
        return translation.report_message(await self._ballots.report(name))
