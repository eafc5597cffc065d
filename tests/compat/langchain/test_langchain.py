"""LangChain's own suite for sandboxes, through its E2B adapter."""

import e2b
import pytest
from langchain_e2b import AsyncE2BSandbox, E2BSandbox
from langchain_tests.integration_tests import SandboxIntegrationTests


class TestE2BSandbox(SandboxIntegrationTests):
    """The synchronous adapter."""

    @pytest.fixture(scope="class")
    def sandbox(self):
        sandbox = e2b.Sandbox.create(timeout=1800)
        try:
            yield E2BSandbox(sandbox=sandbox)
        finally:
            sandbox.kill()
